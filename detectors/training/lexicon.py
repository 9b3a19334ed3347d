"""Words that exclude each other, and words that say nearly the same, for `edits`. A hyphen stands for a space."""

from __future__ import annotations

# Words of which any two in a row exclude each other, where they stand in the same place of a sentence.
EXCLUSIVE = [
    row.split()
    for row in """
first second third last
largest smallest
biggest smallest
highest lowest
longest shortest
oldest youngest newest
earliest latest
greatest least
best worst
most least
more less fewer
larger smaller
higher lower
longer shorter
older younger
bigger smaller
better worse
earlier later
before after
early late
began ended
begins ends
started stopped
opened closed
founded dissolved
born died
won lost
win lose
rose fell
increased decreased
increase decrease
increases decreases
accepted rejected
allowed forbade
allowed banned
married divorced
joined left
arrived departed
bought sold
built destroyed
created destroyed
appeared disappeared
succeeded failed
success failure
successful unsuccessful
agreed disagreed
supported opposed
approved rejected
defeated joined
attacked defended
remembered forgot
loved hated
liked disliked
praised criticized
positive negative
favorable unfavorable
popular unpopular
famous unknown
important unimportant
common rare
possible impossible
legal illegal
public private
domestic foreign
national local international
northern southern eastern western
north south east west
northeast southwest northwest southeast
left right
above below
upper lower
inside outside
inner outer
front back
long short
large small
big small
tall short
high low
hot cold
warm cold
wet dry
fast slow
heavy light
hard soft
strong weak
rich poor
old new
old young
ancient modern
major minor
male female
man woman
men women
boy girl
boys girls
king queen
prince princess
husband wife
father mother brother sister uncle aunt
son daughter nephew niece
brothers sisters
sons daughters
actor actress
he she
his her
black white red blue green yellow brown
gold silver bronze
dead alive
always never
often rarely
all none
every no
many few
everyone nobody
both neither
with without
including excluding
within beyond
for against
to from
into out-of
up down
north-east south-west
full empty
single multiple
only also
alone together
simple complex
easy difficult
true false
real fictional
original later
winter summer spring autumn
morning evening
day night
day week month year decade
days weeks months years decades
Monday Tuesday Wednesday Thursday Friday Saturday Sunday
American British French German Italian Spanish Russian Canadian Australian Japanese Chinese Irish
English Scottish Welsh Irish
America Britain France Germany Italy Spain Russia Canada Australia Japan China Ireland India Mexico
Europe Asia Africa Australia
London Paris Berlin Rome Madrid Moscow Toronto Sydney Tokyo Dublin
Atlantic Pacific Indian
Catholic Protestant Jewish Muslim Buddhist
singer actor painter writer politician scientist athlete
author director producer composer
novel film album song play poem
book film series game
city village country river mountain lake island
war treaty
army navy
president minister king governor mayor
university school college
rock jazz country classical
football basketball baseball tennis hockey
cancer pneumonia diabetes
two three four five six seven eight nine ten
twice once
hundred thousand million billion
half third quarter
""".strip().splitlines()
]
# Words that say nearly the same: a claim that uses another one is as true as before.
ALIKE = [
    row.split()
    for row in """
began started
begins starts
film movie
movie picture
films movies
wrote authored penned
created made produced
built constructed erected
located situated
big large
small little
famous well-known renowned
known recognized
won received
received got
died passed-away
purchased bought
sold marketed
children kids
near close-to
roughly about around approximately
nearly almost
often frequently
usually typically generally
primarily mainly mostly
because since
while whereas
however though
although though
several various multiple
many numerous
numerous various
main primary chief
important significant
help assist aid
helped assisted aided
shows demonstrates
showed demonstrated
use utilize
used utilized employed
uses utilizes
called named titled
named called
became turned-into
becoming turning-into
released issued published
published released
established founded
founded established
required needed
requires needs
provided gave
provides gives
obtain get
obtained got
attempted tried
attempt try
ended finished concluded
ends finishes
moved relocated
lived resided
lives resides
worked served
job position
kind type sort
kinds types sorts
area region
areas regions
country nation
countries nations
town settlement
entire whole
total overall
initially at-first originally
originally initially
finally eventually
eventually ultimately
later afterwards subsequently
also additionally
including such-as
consists is-composed
contains includes has
featuring including
features includes
appeared featured
performed played
states says
stated said
said stated
argued claimed
claimed asserted
believed thought
believes thinks
discovered found
found discovered
killed slain
quickly rapidly
quick rapid
rapidly fast
increase growth
reduced lowered
reduce lower
caused led-to
causes leads-to
allowed let enabled
allows lets enables
change alteration
city metropolis
person individual
people individuals
physician doctor
attorney lawyer
car automobile
illness disease
money funds
us united-states
U.S. United-States
two 2
three 3
four 4
five 5
six 6
seven 7
eight 8
nine 9
ten 10
""".strip().splitlines()
]
OPPOSITES: dict[str, list[str]] = {}
for _row in EXCLUSIVE:
    for _word in _row:
        OPPOSITES.setdefault(_word, []).extend(other.replace("-", " ") for other in _row if other != _word)
SYNONYMS: dict[str, list[str]] = {}
for _row in ALIKE:
    SYNONYMS.setdefault(_row[0], []).extend(other.replace("-", " ") for other in _row[1:])
