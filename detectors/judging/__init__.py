"""An LLM as judge: ragas metrics and rubrics of one's own, on any endpoint that speaks as OpenAI's does.

`catalogue` says which metrics there are, `endpoint` whom to ask, `book` what was spent and what may be, `transport` counts and
bounds each call, `engine` gives a score. ragas is imported by the engine alone, when it is first asked.
"""
