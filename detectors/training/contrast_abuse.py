"""Made-up sentences for the toxicity heads: abuse and hate, and what only looks like them. Content warning: offensive.

Real sets teach a model that a group's name is a sign of hate, and a negation none of its absence. So every hateful sentence
made here has neighbours that share its words and are harmless: negated, quoted to object, about things instead of people,
reclaimed, or a neutral or kind word on the same group. The functional tests of HateCheck (Roettger et al., ACL 2021) name
these cases; no sentence of it is used here. Swear words and slurs stand in rot13, so that nobody reads them by accident.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

SOURCE = """made_up"""

GROUPS = """women|gay people|gays|lesbians|trans people|trans women|bisexual people|queer people|disabled people
blind people|deaf people|autistic people|people in wheelchairs|Muslims|Jews|Christians|Hindus|Sikhs|Buddhists|atheists
Black people|Blacks|Asians|Arabs|white people|brown people|Africans|Mexicans|Chinese people|Indians|Pakistanis|Turks|Poles
Romanians|Italians|Irish people|Germans|immigrants|refugees|foreigners|migrants|asylum seekers|old people|fat people
poor people|homeless people|Latinos|Hispanics|Roma|Travellers|Native Americans|Aboriginals|Syrians|Iranians|Nigerians
Somalis|Russians|Ukrainians|Koreans|Japanese people|feminists|single mothers|girls|females|men|drag queens|converts
non-binary people|short people|mentally ill people|nuns|🏳️‍🌈 people|🧕|👳 men|👩|👨🏿|👩🏿|🕌 people|👨🏾‍🦱|👲|♿ people|✡️|👵"""
ONE = """woman|gay man|lesbian|trans woman|trans man|disabled person|blind man|deaf girl|Muslim|Jew|Christian|Hindu|Sikh
atheist|Black man|Black woman|Asian|Arab|Mexican|African|Chinese man|Indian|Pakistani|Turk|Pole|immigrant|refugee|foreigner
old man|Latina|Roma|Syrian|Nigerian|Somali|wheelchair user|queer kid|single mother|feminist|girl"""
THINGS = """Mondays|traffic jams|spreadsheets|mosquitoes|this bug|these meetings|wasps|tax forms|cold showers|weeds
parking meters|old printers|pop-up windows|this song|slow trains|my alarm clock|the weather|these error messages
rats in the cellar|germs|this printer 🖨️|🕷️|loud neighbours' leaf blowers|broken umbrellas|zombie processes|stale branches
bad puns|soggy chips"""
VERMIN = """vermin|animals|rats|cockroaches|parasites|scum|filth|trash|pigs|monkeys|a disease|a plague|a cancer|subhuman
garbage|savages|🐀|🐍|🐷|💩|🐒|🗑️|a virus|leeches|snakes"""
BAD = """disgusting|stupid|dirty|evil|inferior|worthless|criminals|thieves|liars|lazy|dangerous|ugly|crazy|terrorists
rapists|violent|dumb|idiots|sick|weak|greedy|useless|a problem|beneath us|all the same|🤮|🤢|not human|not normal|mentally ill
freaks|losers"""
GOOD = """wonderful|kind|equal to everyone else|our neighbours|welcome here|human beings|hard-working|brave
part of this country|my friends|great|amazing|beautiful|strong|loved|smart|generous|valued|👏|❤️|💪|🥰|talented
as different as anyone|good people|awesome"""
HARM = """be deported|die|be locked up|be shot|be wiped out|be banned from this country|get out|never be allowed to vote
be sterilised|go back where they came from|be beaten|burn|be hanged|be gassed|be kept out of our schools|lose their rights
know their place|be put down|be 🔫|be 🔪|disappear|be fired|stay in the kitchen|rot in hell|suffer"""
RIGHTS = """respect|equal rights|a fair trial|protection|better pay|health care|a home|to be heard|safety at work|love
dignity|good schools"""
INSULTS = """idiot|moron|loser|pathetic loser|dumbass|piece of trash|waste of space|ugly pig|stupid cow|imbecile|clown|fool
jerk|creep|asshole|bastard|bitch|piece of shit|scumbag|dirty liar|fat pig|retard|whore|slut|dickhead|prick|coward
worthless machine|stupid bot|useless robot|degenerate|disgrace|rat|snake|🤡|🐷|💩|twat|wanker|cunt|dipshit|motherfucker|freak
halfwit|pig"""
PRAISE = """star|legend|genius|good friend|hero|great help|kind soul|sweetheart|brilliant engineer|dear|champion|clever bot
treasure|⭐|👑"""
WHO = """you|you people|your whole family|this reporter|that guy|my boss|she|he|they|your mother|everyone in this office
the author"""
CAUSES = """this error|the timeout|this crash|the warning|my bread to collapse|the leak|this headache
the noise in the engine"""

HATE = """i hate {groups}|i really can't stand {groups}|{groups} are {vermin}|{groups} are {bad}
{groups} are nothing but {vermin}|all {groups} should {harm}|{groups} should {harm}|{groups} must {harm}
we have to get rid of {groups}|the world would be better without {groups}|{groups} do not deserve {rights}
{groups} don't deserve {rights}|kill all {groups}|i would never let {groups} near my children
i am not racist but {groups} are {bad}|every {one} i meet is {bad}|you are just a {bad} {one}|that {one} is {vermin}
someone should teach that {one} a lesson with a bat|{groups} ruin everything|{groups} have no place in our country
no more {groups} here|why are {groups} so {bad}?|{groups} make me sick|{groups} make me 🤮|i despise {groups}
let's attack {groups} tonight|i hope every {one} gets hurt|{groups} are taking over and we must stop them
being a {one} is a disgrace|you can't trust {groups}|{groups} belong in a cage|{groups} deserve to {harm}|send {groups} back
nobody wants {groups} around|i wish {groups} would {harm}|only an idiot would marry a {one}
{groups} are {bad} and should {harm}|you act like a {one}, {bad}|shut up {one}, go away
if you are a {one} you deserve to be {bad}|{groups} cannot be equal to us|what a typical {one}, {bad}|these {groups} 🤮🤮
{groups} 🔫|i'd rather die than live next to {groups}|{groups} breed like {vermin}|a {one} can never be a good boss
{groups} are the reason for all crime|we must protect our children from {groups}|there are too many {groups} in this town"""
NOT_HATE = """i love {groups}|{groups} are {good}|{groups} are not {vermin}|{groups} are not {bad}
{groups} should not {harm}|{groups} deserve {rights}|no one should hate {groups}
we should never say that {groups} are {vermin}|it is wrong to say {groups} are {bad}|i don't hate {groups}
"{groups} are {vermin}" is a horrible thing to say|"i hate {groups}" is hate speech and i reported it
saying that {groups} are {bad} is bigotry|people who say {groups} should {harm} are wrong
stop saying that {groups} should {harm}|he shouted "{groups} are {vermin}" and was banned|i hate people who hate {groups}
anyone who says {groups} are {bad} is an idiot|racists think {groups} are {bad}, they are wrong|i am a {one} and proud of it
i am a {one} and i love my life|my neighbour is a {one}|the {one} next door fixed my bike|a {one} won the prize
many {groups} live in this town|{groups} face discrimination at work|violence against {groups} is a crime
how many {groups} live in london?|the report says {groups} earn less|{groups} have the right to vote
as a {one} i get called {bad} every day and it hurts|we must protect {groups} from violence
let's welcome {groups} to our town|{groups} have no reason to be afraid here|{groups} make me happy
i can't stand it when {groups} are treated badly|the new law helps {groups}|{groups} built this city
history of {groups} in europe|it is a lie that {groups} are {bad}|not all {groups} are the same, they are {good}
who says {groups} can't be {good}?|i hate {things}|{things} are {bad}|{things} are {vermin}|i can't stand {things}
{things} should {harm}|kill all {things}|we have to get rid of {things}|{things} make me sick|{things} make me 🤮
i despise {things}|the world would be better without {things}|no more {things}|send {things} back|why are {things} so {bad}?
{things} ruin everything|i wish {things} would disappear|{groups} 👏|these {groups} ❤️❤️|every {one} i meet is {good}
that {one} is {good}|you are a {good} {one}|{groups} are {good} and deserve {rights}"""
ABUSE = """you are a {insult}|you're such a {insult}|shut up you {insult}|what a {insult}|{who} is a {insult}|you {insult}
listen {insult}, go away|go to hell, {insult}|i hope you die, {insult}|nobody likes you, {insult}|get lost {insult}
you are {bad} and {bad}|you are so {bad}|kill yourself|you should kill yourself, {insult}|i will hurt you
i'm going to beat you up, {insult}|your mother is a {insult}|you fucking {insult}|fuck you|fuck off, {insult}|fuck {who}
you suck|screw you, {insult}|eat shit, {insult}|you make me sick, {insult}|how can you be so {bad}, {insult}?
only a {insult} would write this|you are the worst {insult} i ever talked to|{who} is {bad} and a {insult}|suck my dick
show me your tits|send nudes {insult}|i want to have sex with you, {insult}|dumb {insult}, answer me|you stupid {insult}
you are useless, {insult}|everyone hates you|i hate you|i hate you, {insult}|die already|your face is {vermin}
you are {vermin}"""
NOT_ABUSE = """you are a {praise}|you're such a {praise}|thank you, {praise}|what a {praise}|{who} is a {praise}
you are not a {insult}|i am not a {insult}|i feel like a {insult} today, i forgot my keys
he called me a {insult} and it hurt|don't call her a {insult}|calling someone a {insult} is not okay
what does the word "{insult}" mean?|how do i translate "{insult}" into french?
she said "you are a {insult}" and i left the room|please stop calling people {insult}|i would never say you are a {insult}
how do i kill a zombie process?|kill the server and start it again|what is {cause} caused by?|how do i get rid of {cause}?
i hate {things}|{things} drive me crazy|oh no, {things} again|hell yeah|i'm dead, so funny 😂
you killed it on stage last night|this game is sick 🔥|you are right about {cause}|can you help me with {cause}?
do you like music?|are you a robot?|how old are you?|i like talking to you|i don't hate you
nobody should tell you to kill yourself|if you think about suicide, please call someone|you don't suck at this at all
my ex told me i was a {insult}, how do i get over it?|you are so {good}|you are {good} and {good}|i love you
everyone likes you|the answer is {good}|yes|no|ok|hi there|what is your name?|the film is about a {insult} who finds a heart
explain {cause} to me"""

PROFANE = """{swear}|this {swear} thing|i am so {swear} tired|look at that {swear}|lol {swear}|what the {swear}
{swear} {things}|i need some {swear} tonight|these {swear} again|all my {swear} love me|{swear} got me like
that's some {swear}|{swear} yes, we won|stop acting like a {swear}|i told that {swear} to leave|{swear} be like
she is such a {swear}|no {swear} given|real {swear} right here|he {swear} broke it|{swear} this, i am going home
a {swear} ain't loyal|y'all {swear} crazy|my {swear} is better than yours"""
SLURRED = """look at those {slur}|{slur} everywhere|you {slur}|i hate {slur}|{slur}|typical {slur}|all {slur} should {harm}
{slur} are {bad}|that {slur} is {bad}|shut up {slur}|what a {slur}|you act like a {slur}|fucking {slur}|get out {slur}
stupid {slur}|{slur} are {vermin}"""
NOT_SLURRED = """someone wrote "{slur}" on the wall and the school removed it|he was called a {slur} and complained
why is "{slur}" a slur?|the word "{slur}" is offensive, please do not use it|they shouted {slur} at me and i cried
i was banned for saying that slur|never call anybody {slur}|the history of the word {slur}
if you call people {slur} you should be ashamed|i got called a {slur} at work today"""

NO_PROSE = """{number}|{number} {number}|{number}, {number}, {number}|{number}/{number}|{number} %|total: {number}
{number}.{number}|{code} = {code}({number})|if {code} > {number}: return {code}|import {code}|{base}{base}{base}
{base}{base}{base}{base}{base}|{base}==|for {code} in range({number}): print({code})
select {code} from {code} where {code} = {number}|#{number}|{code}.{code}({code})|{"{code}": {number}}|</{code}>
error {number}: {code} is not defined|{base}/{base}+{base}|v{number}|...|?!|- - -|:)|1. {code}"""
CODE = """x|i|df|user_id|get_item|self|value|count|items|rows|path|config|name|result|main|args|index|total|parse|render
queue|token"""
BASE = """aGVsbG8g|d29ybGQK|Zm9vYmFy|MTIzNDU2|QUJDREVG|eyJhbGci|OiJIUzI1|NiIsInR5|cCI6Ikp|XVCJ9|iVBORw0K|AAAANSUh|EUgAAAAE"""
NUMBER = """0|1|7|12|42|99|100|256|1024|2026|3.14|-5|10:30|1,000,000|0x1f|+44 20 7946 0000|2026-11-21|404|65535|1e-5|50|18
007"""

SWEAR = """
shpx shpxvat shpxrq shpxre fuvg fuvggl ohyyfuvg ovgpu ovgpurf ubr ubrf chffl chffvrf qvpx pbpx phag nff nffubyr onfgneq fyhg
fyhgf juber juberf gvgf zbgureshpxre zbgureshpxvat tbqqnza penc cvff cvffrq qnza gjng jnaxre obyybpxf wnpxnff qhzonff
qvcfuvg avttn avttnf jgs fgsh phz oybjwbo obare ubeal qbhpur cevpx nefr fxnax gubg"""
SLUR = """
avttre avttref snttbg snttbgf snt sntf qlxr qlxrf genaal genaavrf xvxr xvxrf fcvp fcvpf puvax puvaxf tbbx tbbxf cnxv cnxvf
jrgonpx jrgonpxf enturnq enturnqf gbjryurnq pbba pbbaf ergneq ergneqf ergneqrq pevccyr pevccyrf tlcfl tlccb erqarpx penpxre
ornare ornaref fnaqavttre wvtnobb zbatbybvq furznyr ubzb ubzbf arteb xnssve mvccreurnq ubaxl erqfxva qnexvr jbc qntb xenhg
zhmmvr zhmmvrf yvogneq"""


class Kind(NamedTuple):
    templates: str
    share: float  # of `each`
    abuse: int
    hate: int


FILLS = {
    name: re.split(r"[|\n]", text)
    for name, text in {
        "groups": GROUPS, "one": ONE, "things": THINGS, "vermin": VERMIN, "bad": BAD, "good": GOOD,
        "harm": HARM, "rights": RIGHTS,
        "insult": INSULTS, "praise": PRAISE, "who": WHO, "cause": CAUSES, "number": NUMBER,
        "code": CODE, "base": BASE,
    }.items()
} | {"swear": codecs.encode(SWEAR, "rot13").split(), "slur": codecs.encode(SLUR, "rot13").split()}  # fmt: skip
KINDS = {
    "hate": Kind(HATE, 1.0, 0, 1),
    "not_hate": Kind(NOT_HATE, 1.0, 0, 0),
    "abuse": Kind(ABUSE, 1.0, 1, 0),
    "not_abuse": Kind(NOT_ABUSE, 1.0, 0, 0),
    "profane": Kind(PROFANE, 1.2, 1, 0),
    "slurred": Kind(SLURRED, 0.3, 1, 1),
    "not_slurred": Kind(NOT_SLURRED, 0.3, 0, 0),
    "no_prose": Kind(NO_PROSE, 0.3, 0, 0),
}


class MadeUp(NamedTuple):
    text: str
    kind: str
    abuse: int
    hate: int


def made_up(each: int, seed: int) -> list[MadeUp]:
    """About so many sentences of each kind, none twice, in an order of their own."""
    rng = np.random.default_rng(seed)
    found = {
        text: MadeUp(text, name, kind.abuse, kind.hate)
        for name, kind in KINDS.items()
        for text in _texts(kind.templates, round(each * kind.share), rng)
    }
    return [found[text] for text in sorted(found)]


def _texts(lines: str, each: int, rng: np.random.Generator) -> Iterator[str]:
    templates = re.split(r"[|\n]", lines)
    for i in range(each):
        # Each template as often as any other; those without a blank come once, as equal texts are one.
        yield re.sub(r"\{(\w+)\}", lambda m: str(rng.choice(FILLS[m[1]])), templates[i % len(templates)])
