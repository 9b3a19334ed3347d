"""How the pages look: the reader's own colours, dark or light, and black on white on paper."""

STYLE = """
:root { --text: #1b1f24; --back: #ffffff; --soft: #6b7280; --line: #d6dae0; --before: #9db4cf; --now: #b45309; --bad: #b42318;
  --band: #cfe0f3; --wash: #fdf0ee; --estimate: #1d4f91; }
@media screen and (prefers-color-scheme: dark) { :root { --text: #e6e8eb; --back: #15181c; --soft: #9aa3ad; --line: #343a42;
  --before: #4a6484; --now: #f0a35a; --bad: #ff8a7a; --band: #233a55; --wash: #33201f; --estimate: #8ab8f0; } }
body { margin: 2rem auto; padding: 0 1rem; max-width: 68rem; color: var(--text); background: var(--back);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.verdict { font-size: 1.1rem; font-weight: 600; } .verdict.bad { color: var(--bad); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; } dt { color: var(--soft); } dd { margin: 0; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: 1rem 0; width: 100%; font-size: .9rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  font-variant-numeric: tabular-nums; }
/* "anywhere" would let a long text squeeze all others to a letter a line */
th, td { overflow-wrap: break-word; } thead th { color: var(--soft); font-weight: 500; white-space: nowrap; }
tbody th { font-weight: 600; min-width: 8rem; overflow-wrap: anywhere; } td.why { min-width: 13rem; }
tr.bad { background: var(--wash); }
figure { margin: 1.2rem 0; break-inside: avoid; } figcaption { font-size: .9rem; color: var(--soft); }
svg { max-width: 100%; } figure svg { width: 40rem; height: auto; display: block; }
.key svg { vertical-align: -2px; margin: 0 .35rem 0 1rem; }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft); } .end { text-anchor: end; } .middle { text-anchor: middle; }
.grid { stroke: var(--line); stroke-width: 1; } .axis { stroke: var(--soft); stroke-width: 1; }
polyline { fill: none; stroke-width: 2; } .reference { fill: var(--before); stroke: none; }
.current { stroke: var(--now); stroke-width: 2; } .current.bar { fill: none; }
.band { fill: var(--band); } .estimate { stroke: var(--estimate); } .estimate.point { fill: var(--estimate); }
.realised { stroke: var(--now); stroke-dasharray: 5 3; } .realised.point { fill: var(--back); stroke-dasharray: none;
  stroke-width: 2; }
.past { stroke: var(--soft); } .threshold { stroke: var(--bad); stroke-dasharray: 2 3; }
.alert { fill: none; stroke: var(--bad); stroke-width: 2; }
@media print { body { margin: 0; max-width: none; font-size: 11px; } * { print-color-adjust: exact; }
  .wide { overflow: visible; } }
"""
