"""The judge: every metric of ragas through a real client and a judge of our own, and what becomes of whatever it answers."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pydantic import SecretStr, ValidationError

from detectors.contract import Outcome, Resources, Score
from detectors.judge import Escalation, Judge
from detectors.judging.book import Meter
from detectors.judging.catalogue import METRICS
from detectors.judging.endpoint import EndpointConfig, Rates
from detectors.judging.engine import why_failed
from detectors.judging.ragas_library import quiet_ragas
from detectors.judging.sampling import sampled
from tests.detectors.test_bad_input import CASES
from tests.judge import MODEL, JudgeServer

ROW: dict[str, Any] = {
    "record_id": "r",
    "question": "May I return it?",
    "response": 'The shop says "goods may be returned within 14 days" to all.',
    "contexts": ["Goods may be returned within 14 days.", "Sale items cannot be returned."],
    "attributes": {
        "reference": "Within 14 days.",
        "reference_contexts": ["Goods may be returned within 14 days."],
        "reference_topics": ["returns"],
        "reference_tool_calls": [{"name": "look_up", "args": {"order": 7}}],
        "rubrics": {"score1_description": "wrong", "score5_description": "right"},
    },
    "messages": [
        {"role": "user", "parts": [{"type": "text", "content": "May I return it?"}]},
        {"role": "assistant", "parts": [{"type": "tool_call", "name": "look_up", "arguments": '{"order": 7}'}]},
        {"role": "tool", "parts": [{"type": "tool_call_response", "response": {"days": 14}}]},
        {"role": "assistant", "parts": [{"type": "text", "content": "Yes."}]},
    ],
}
NOT_HERE = {"data_compy_score"}  # its package is apart


class Lengths:
    """An encoder of texts by their length."""

    name, dimension = "lengths", 2

    def encode(self, texts: Any) -> Any:
        return np.array([[1.0, len(text) / 100] for text in texts], dtype=np.float32)


@pytest.fixture(scope="module")
def server() -> Iterator[JudgeServer]:
    with JudgeServer() as made:
        yield made


@pytest.fixture(autouse=True)
def _as_new(server: JudgeServer) -> None:
    server.asked.clear()
    server.headers.clear()
    server.mode, server.retry_after, server.usage, server.seconds, server.most = None, None, True, 0.0, 0


@pytest.fixture
def ask(server: JudgeServer) -> Iterator[Any]:
    made: list[Judge] = []

    def ask(rows: Any, settings: Any = None, **endpoint: Any) -> Any:
        """The score of a row, or those of a list of them."""
        judge = Judge(Judge.Config(**settings or {}))
        made.append(judge)
        whom = EndpointConfig(**{"base_url": server.url, "model": "tiny-judge", **endpoint})
        judge.load(Resources(encoder=Lengths, judge=whom))
        found = judge.score([rows] if isinstance(rows, dict) else rows)
        return found[0] if isinstance(rows, dict) else found

    yield ask
    for judge in made:
        judge.close()


# --- the metrics of ragas --------------------------------------------------------------------------------------------


def test_the_table_is_that_of_ragas() -> None:
    there = {name: getattr(quiet_ragas().collections, name) for name in quiet_ragas().collections.__all__}
    taken = {entry.ragas for entry in METRICS.values()}
    assert taken == {*there} - {"BaseMetric", "DistanceMeasure", "MultiModalFaithfulness", "MultiModalRelevance"} | {
        "AgentGoalAccuracy"
    }
    for name, entry in METRICS.items():
        made, asked = (inspect.signature(f).parameters for f in (there[entry.ragas].__init__, there[entry.ragas].ascore))
        needed = [p for p, one in asked.items() if p != "self" and one.default is one.empty]
        assert set(needed) <= set(entry.reads), name
        assert {*entry.reads, *entry.may_read} <= set(asked), name
        assert ("llm" in made) == entry.asks, name
        assert ("embeddings" in made) == entry.embeddings, name
        assert set(entry.options) <= set(made), name


@pytest.mark.parametrize("metric", sorted(set(METRICS) - NOT_HERE))
def test_a_metric_gives_a_number_for_as_many_calls_as_are_set_aside_for_it(ask: Any, server: JudgeServer, metric: str) -> None:
    score = ask(ROW, {"metric": metric})
    assert score.outcome is Outcome.OK, score
    assert 0 <= score.value <= 1
    assert len(server.asked) == METRICS[metric].calls(len(ROW["contexts"]), {})
    assert (score.detail["metric"], score.detail["ragas"]) == (metric, "0.4.3")
    if server.asked:
        assert (score.detail["llm_model"], score.detail["calls"]) == (MODEL, len(server.asked))
        assert all(asked["max_tokens"] >= 4096 for asked in server.asked)
        assert {headers["user-agent"] for headers in server.headers} == {"modelwatch-judge"}


@pytest.mark.parametrize("metric", sorted(NOT_HERE))
def test_a_metric_whose_package_is_missing_says_which(ask: Any, metric: str) -> None:
    score = ask(ROW, {"metric": metric})
    if score.outcome is not Outcome.OK:  # it is installed by chance
        assert (score.outcome, score.reason) == (Outcome.NOT_EVALUABLE, "not_installed")
        assert "pip install" in score.detail["error"]


@pytest.mark.parametrize(
    ("metric", "options", "said", "value"),
    (
        ("bleu_score", {}, "the cat sat on the mat", 1.0),
        ("bleu_score", {}, "quite another thing altogether here", 0.0),
        # 2 of its 3 words are there, and 2 of the 6 of the reference: 2 * 2/3 * 2/6 / (2/3 + 2/6)
        ("rouge_score", {"rouge_type": "rouge1"}, "the cat slept", 4 / 9),
        ("rouge_score", {"rouge_type": "rouge1", "mode": "recall"}, "the cat slept", 2 / 6),
        ("chrf_score", {}, "the cat sat on the mat", 1.0),
        ("non_llm_string_similarity", {}, "the cat sat on the hat", 1 - 1 / 22),
        ("non_llm_string_similarity", {"distance_measure": "hamming"}, "the dog sat on the mat", 1 - 3 / 22),
    ),
)
def test_metrics_of_strings_are_those_of_their_definition(
    ask: Any, metric: str, options: dict[str, Any], said: str, value: float
) -> None:
    row = {"response": said, "attributes": {"reference": "the cat sat on the mat"}}
    score = ask(row, {"metric": metric, "options": options})
    assert score.value == pytest.approx(value, abs=0.005), score


def test_a_verdict_is_what_the_judge_says(ask: Any) -> None:
    bad = {**ROW, "contexts": ["Nothing of the kind. [[bad]]"], "response": "It may. [[bad]]"}
    for metric in (
        "faithfulness",
        "response_groundedness",
        "context_precision_without_reference",
        "rubrics_score_without_reference",
    ):
        assert [score.value for score in ask([ROW, bad], {"metric": metric})] == pytest.approx([1.0, 0.0]), metric


def test_rubrics_of_ones_own_are_brought_to_0_and_1(ask: Any, server: JudgeServer) -> None:
    settings = {
        "metric": "discrete",
        "prompt": "Polite? {response} ({contexts}) {{yes}}",
        "values": {"yes": 1.0, "rather": 0.5, "no": 0},
    }
    good, bad = ask([ROW, {**ROW, "response": "[[bad]]"}], settings)
    assert (good.value, good.detail["answer"], bad.value, bad.detail["answer"]) == (1.0, "yes", 0.0, "no")
    assert "Sale items cannot be returned. ) {yes}".replace(" )", ")") in server.asked[0]["messages"][-1]["content"]
    score = ask(ROW, {"metric": "numeric", "prompt": "From -1 to 3: {response}", "range": [-1, 3]})
    assert (score.value, score.detail["raw"]) == (0.5, 1.0)
    odd = ask({**ROW, "response": "[[odd]]"}, {"metric": "numeric", "prompt": "{response}"})
    assert (odd.outcome, odd.reason) == (Outcome.FAILED, "out_of_range")


def test_another_prompt_has_another_hash_and_an_equal_one_the_same(ask: Any) -> None:
    def digest(**settings: Any) -> str:
        return str(ask(ROW, settings).detail["prompt_hash"])

    one = digest(metric="numeric", prompt="Good? {response}")
    assert digest(metric="numeric", prompt="Good? {response}") == one
    assert len({one, digest(metric="numeric", prompt="Bad? {response}"), digest(metric="faithfulness")}) == 3


@pytest.mark.parametrize("mode", ("json", "md_json", "json_schema"))
def test_every_mode_is_understood(ask: Any, server: JudgeServer, mode: str) -> None:
    assert ask(ROW, mode=mode).outcome is Outcome.OK
    wanted = {"json": "json_object", "md_json": None, "json_schema": "json_schema"}[mode]
    assert (server.asked[0].get("response_format") or {}).get("type") == wanted


# --- bad judges ------------------------------------------------------------------------------------------------------


def test_no_score_takes_more_calls_than_it_may(ask: Any, server: JudgeServer) -> None:
    """Of itself ragas asks 10 times and more here, as it takes any failure for a reason to ask again."""
    score = ask({**ROW, "response": "[[prose]]"}, {"metric": "response_groundedness"}, score_calls=5)
    assert (score.outcome, score.reason) == (Outcome.FAILED, "call_limit")
    assert len(server.asked) == 5


def test_what_ragas_swallows_is_no_verdict(ask: Any) -> None:
    rows = [{**ROW, "response": f"[[{mark}]]"} for mark in ("prose", "odd", "length", "refuse")]
    found = ask(rows, {"metric": "response_groundedness"}, score_calls=40, concurrency=1)
    assert [(score.outcome.value, score.reason) for score in found] == [
        ("failed", "bad_json"),
        ("not_evaluable", "judge_undecided"),
        ("failed", "truncated"),
        ("failed", "refused"),
    ]
    away = ask({**ROW, "response": "[[401]]"}, {"metric": "response_groundedness"})
    assert (away.outcome, away.reason) == (Outcome.NOT_EVALUABLE, "judge_unavailable")


def test_an_answer_without_its_tokens_is_estimated(ask: Any, server: JudgeServer) -> None:
    server.usage = False
    score = ask(ROW, price=Rates(input=1.0, output=1.0))
    assert score.detail["tokens_estimated"] is True
    assert score.detail["input_tokens"] > 100
    assert score.detail["cost_usd"] > 0


def test_so_many_are_under_way_and_not_more(ask: Any, server: JudgeServer) -> None:
    server.seconds = 0.02
    ask([ROW] * 12, concurrency=3)
    assert server.most == 3


def test_a_short_wait_that_is_asked_for_is_kept_and_the_score_comes(ask: Any, server: JudgeServer) -> None:
    server.mode, server.retry_after = "429", "0.5"
    score = ask(ROW, score_calls=3)
    assert (score.outcome, score.reason, len(server.asked)) == (Outcome.NOT_EVALUABLE, "judge_unavailable", 3)
    assert score.detail["error"].startswith("rate_limited: HTTP 429")


def test_without_an_endpoint_that_listens_nothing_is_scored_and_nothing_raised(ask: Any) -> None:
    found = ask([ROW] * 5, base_url="http://127.0.0.1:9/v1", concurrency=1)
    assert {(score.outcome, score.reason) for score in found} == {(Outcome.NOT_EVALUABLE, "judge_unavailable")}


def test_a_key_that_the_endpoint_repeats_is_not_kept(ask: Any, server: JudgeServer) -> None:
    server.mode = "401"
    score = ask(ROW, api_key="sk-of-somebody")
    assert server.headers[0]["authorization"] == "Bearer sk-of-somebody"
    assert "not with Bearer ***" in score.detail["error"]


def test_a_key_is_one_line_and_what_is_wrong_with_it_does_not_show_it(ask: Any, server: JudgeServer) -> None:
    assert ask(ROW, api_key="sk-of-somebody\n").outcome is Outcome.OK
    assert server.headers[0]["authorization"] == "Bearer sk-of-somebody"
    for key in ("sk-of\nsomebody", "sk-öf-somebody", " "):
        with pytest.raises(ValidationError, match="no key that fits into a header") as caught:
            EndpointConfig(base_url=server.url, model="m", api_key=SecretStr(key))
        assert "somebody" not in str(caught.value)


def test_an_endpoint_has_to_be_given_where_one_is_asked() -> None:
    with pytest.raises(ValueError, match="faithfulness asks an LLM; give Resources"):
        Judge(Judge.Config()).load(Resources(encoder=Lengths))


# --- rows and settings -----------------------------------------------------------------------------------------------


def test_whatever_a_row_holds_is_an_outcome_and_hurts_no_other(ask: Any) -> None:
    cases = list(CASES.values())
    found: list[Score] = ask([ROW, *cases, ROW])
    assert [found[0].value, found[-1].value] == [1.0, 1.0]
    by_case = dict(zip(CASES, found[1:-1], strict=True))
    assert {score.outcome for score in by_case.values()} <= {Outcome.OK, Outcome.NOT_EVALUABLE}
    assert by_case["empty"].reason == by_case["white space"].reason == "empty_answer"
    assert by_case["of the wrong type"].reason == "wrong_type"
    assert by_case["a megabyte of sentences"].detail["truncated"] == ["response"]
    assert by_case["500 passages"].detail["truncated"] == ["retrieved_contexts"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    (
        ({"metric": "faithfullness"}, "no metric 'faithfullness'; there are discrete, numeric, agent_goal_accuracy"),
        ({"metric": "multi_modal_relevance"}, "opens the files and addresses"),
        ({"options": {"strictness": 2}}, "options.strictness: faithfulness has no such option; there are none"),
        ({"fields": {"reference": "contexts"}}, "fields.reference: faithfulness reads no such argument"),
        ({"fields": {"response": "answer"}}, "no field 'answer'; there are question, response"),
        ({"metric": "discrete", "values": {"a": 1, "b": 0}}, "metric discrete needs a prompt"),
        ({"metric": "discrete", "prompt": "{response}"}, "metric discrete needs values"),
        ({"metric": "discrete", "prompt": "Good?", "values": {"a": 1, "b": 0}}, "the prompt names no argument"),
        ({"metric": "discrete", "prompt": "{response", "values": {"a": 1, "b": 0}}, "expected '}'"),
        ({"metric": "numeric", "prompt": "{response.__class__}"}, "is not the name of an argument"),
        ({"metric": "numeric", "prompt": "{answer}"}, "the prompt has {answer}; say under fields"),
        ({"metric": "numeric", "prompt": "{response}", "range": [1, 1]}, "range: 1 must be below 1"),
        ({"metric": "discrete", "prompt": "{response}", "values": {"a": 5, "b": 0}}, "'a' has the value 5.0"),
        ({"rate": 0}, "nothing would be judged"),
        ({"rate": 0, "escalate": [{"check": "c", "low": 0.2}]}, "give low and high, or neither"),
    ),
)
def test_settings_that_cannot_be_are_refused_with_what_to_do(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Judge.Config(**settings)
    assert problem in str(caught.value)


def test_which_values_are_bad_is_known_by_the_metric_or_said() -> None:
    assert Judge.flagging(Judge.Config()) == (0.5, "lower")
    assert Judge.flagging(Judge.Config(metric="noise_sensitivity")) == (0.5, "higher")
    assert Judge.flagging(Judge.Config(metric="numeric", prompt="Rude? {response}", worse="higher")) == (0.5, "higher")


def test_what_is_unclear_is_what_the_detector_says_or_lies_in_the_band() -> None:
    assert Escalation(check="c").holds(0.1, {"unclear": True})
    assert not Escalation(check="c").holds(0.1, {})
    assert Escalation(check="c", low=0.1, high=0.2).holds(0.2, {})
    assert not Escalation(check="c", low=0.1, high=0.2).holds(0.21, {"unclear": True})
    assert not Escalation(check="c", low=0.1, high=0.2).holds(None, {})


def test_samples_are_nested_and_another_seed_draws_another() -> None:
    ids = [f"r{i}" for i in range(2_000)]
    few, many, other = ({i for i in ids if sampled(i, rate, seed)} for rate, seed in ((0.05, 0), (0.2, 0), (0.05, 1)))
    assert few < many
    assert few != other
    assert abs(len(many) / len(ids) - 0.2) < 0.03


def test_what_nobody_foresaw_is_named_and_a_cut_answer_is_known_by_its_name() -> None:
    meter = Meter("tiny-judge", 0.0, 0, calls=1)
    assert why_failed(ValueError("odd"), meter).reason == "ValueError"
    cut = RuntimeError("all tries are used up")
    cut.__cause__ = type("IncompleteOutputException", (Exception,), {})("cut")
    assert why_failed(cut, meter).reason == "truncated"
    assert why_failed(type("InstructorRetryException", (Exception,), {})("no"), meter).reason == "bad_json"
