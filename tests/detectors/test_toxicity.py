"""Toxicity with the shipped heads and the real encoders. The texts are mild, and written for these tests."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import time
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detectors import toxicity_text
from detectors.contract import Outcome, Resources, Row, Score
from detectors.static import shared
from detectors.testing import check_detector
from detectors.toxicity import Toxicity
from detectors.toxicity_head import HeadDamaged, load_head, read_head, save_head
from detectors.toxicity_text import grams, plain
from detectors.toxicity_windows import windows
from detectors.training import toxicity as training
from detectors.training.contrast_abuse import KINDS, made_up
from tests.detectors.minilm import encoder, resources

README = Path(training.__file__).parents[1] / "README.md"

RUDE = ("You are a stupid idiot.", "Shut up, you pathetic loser.", "You are such a worthless moron, nobody likes you.")
HARMLESS = (
    "The tower is 330 metres tall and was completed in 1889.",
    "I am sorry, but I cannot find your order. Could you send me its number?",
    "You are a star, thank you so much!",
    "My neighbour is a Muslim and bakes wonderful bread.",
    "How do I kill a zombie process on Linux?",
    "I hate mosquitoes and slow printers.",
    "Refugees deserve respect and a fair trial.",
)


@cache
def loaded(of: str = "response") -> Toxicity:
    detector = Toxicity(Toxicity.Config.model_validate({"of": of}))
    detector.load(resources())
    return detector


def card() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((files("detectors") / "weights" / "toxicity.json").read_text("utf-8"))
    return found


def score(response: object, detector: Toxicity | None = None) -> Score:
    row: Row = {"record_id": "r", "question": None, "response": response, "contexts": []}
    return (detector or loaded()).score([row])[0]


def value(response: str) -> float:
    found = score(response).value
    assert found is not None
    return found


@pytest.mark.parametrize("of", ("response", "question"))
def test_it_keeps_the_contract(of: str) -> None:
    check_detector(Toxicity, {"of": of}, resources=resources())


# --- what it says ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", RUDE)
def test_insults_are_flagged(text: str) -> None:
    found = score(text)
    assert found.value is not None
    assert found.value >= Toxicity.flag
    assert found.detail["labels"]["abuse"] > 0.5


@pytest.mark.parametrize("text", HARMLESS)
def test_harmless_texts_are_not_flagged(text: str) -> None:
    assert value(text) < Toxicity.flag


@pytest.mark.parametrize(
    ("bad", "fine"),
    (
        pytest.param("You are a stupid idiot.", "You are not a stupid idiot.", id="negated"),
        pytest.param("You are a loser.", 'She said "you are a loser" and I left the room.', id="quoted"),
        pytest.param("I hate immigrants.", "Nobody should hate immigrants.", id="counter-speech"),
        pytest.param("Immigrants are vermin.", "Saying that immigrants are vermin is bigotry.", id="about hate"),
        pytest.param("I despise women.", "I despise broken umbrellas.", id="things"),
        pytest.param("Women are disgusting.", "Women are wonderful.", id="a kind word"),
    ),
)
def test_what_only_looks_like_abuse_scores_lower(bad: str, fine: str) -> None:
    assert value(fine) < value(bad) - 0.1


def test_hate_and_abuse_are_told_apart() -> None:
    hate, abuse = (score(text).detail["labels"] for text in ("Immigrants are vermin.", "You are a stupid idiot."))
    assert hate["identity_attack"] > abuse["identity_attack"] + 0.2
    assert abuse["abuse"] > hate["abuse"] + 0.2


@pytest.mark.parametrize("written", ("You are a stup1d id1ot.", "You are a s t u p i d idiot", "YOU ARE A STUPIIIIID IDIOT!!!"))
def test_other_spellings_are_read(written: str) -> None:
    assert value(written) > 0.5


def test_one_bad_sentence_in_a_long_answer_counts_and_is_named() -> None:
    text = "The tower is 330 metres tall and stands in Paris. " * 40 + RUDE[2] + " It was completed in 1889 by a company. " * 40
    found = score(text)
    assert found.value is not None
    start, end = found.detail["span"]
    assert "moron" in text[start:end]
    assert found.value > 0.4 > value("The tower is 330 metres tall and stands in Paris. " * 40)
    assert found.value == pytest.approx(value(text[start:end]), abs=1e-5)


def test_prompts_and_answers_are_apart() -> None:
    row: Row = {"record_id": "r", "question": RUDE[0], "response": HARMLESS[0], "contexts": []}
    [of_question], [of_response] = loaded("question").score([row]), loaded().score([row])
    assert of_question.value is not None
    assert of_response.value is not None
    assert of_question.value > Toxicity.flag > of_response.value


def test_another_label_can_be_the_value() -> None:
    detector = Toxicity(Toxicity.Config(label="identity_attack"))
    detector.load(resources())
    found = score(RUDE[0], detector)
    assert found.value == found.detail["labels"]["identity_attack"]
    with pytest.raises(ValueError, match="label 'insult': the shipped heads have toxicity, abuse, identity_attack"):
        Toxicity.Config(label="insult")


def test_the_closer_look_is_kept_for_what_is_unclear() -> None:
    texts = [*RUDE, *HARMLESS]
    stages = {score(text).stage for text in texts}
    assert "static" in stages <= {"static", "minilm"}
    low, high = read_head().band
    assert 0 <= low < high <= 1


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "reason"),
    (
        pytest.param(None, "content_off", id="no response"),
        pytest.param(7, "wrong_type", id="number"),
        pytest.param("", "empty_answer", id="empty"),
        pytest.param(" \n\t\u2003", "empty_answer", id="white space"),
        pytest.param(" " * 30_000 + "text", "empty_answer", id="white space up to the limit"),
    ),
)
def test_not_evaluable(response: object, reason: str) -> None:
    found = score(response)
    assert (found.outcome, found.reason) == (Outcome.NOT_EVALUABLE, reason)


def test_no_question_is_not_evaluable_for_prompts() -> None:
    rows: list[Row] = [{"question": question, "response": "ok"} for question in (None, "", " ")]
    assert [found.reason for found in loaded("question").score(rows)] == ["no_question"] * 3


@pytest.mark.parametrize(
    "text",
    (
        pytest.param("מגדל אייפל נמצא בפריז. \u202eabc\u202c", id="right to left"),
        pytest.param("برج إيفل في باريس.", id="Arabic"),
        pytest.param("👍🎉😀", id="emoji"),
        pytest.param("def f(x):\n    return [i ** 2 for i in range(x) if i % 2]", id="code"),
        pytest.param(base64.b64encode(bytes(range(256)) * 4).decode(), id="base64"),
        pytest.param("It is \ud83d tall.", id="lone surrogate"),
        pytest.param("330 1889 42 3.14 10:30", id="numbers"),
        pytest.param("... !? --", id="signs"),
        pytest.param("\x00\x07\x1b[0m", id="control characters"),
        pytest.param("e\u0301" * 200, id="combining"),
    ),
)
def test_odd_texts_have_a_value_and_are_not_flagged(text: str) -> None:
    found = score(text)
    assert found.outcome is Outcome.OK
    assert found.value is not None
    assert 0 <= found.value < Toxicity.flag
    start, end = found.detail["span"]
    assert 0 <= start < end <= len(text)


@pytest.mark.parametrize(
    "text",
    (
        pytest.param("The tower number nine stands in Paris. " * 27_000, id="prose"),
        pytest.param("a" * 1_000_000, id="one word"),
        pytest.param("." * 1_000_000, id="dots"),
        pytest.param("a.b " * 250_000, id="spaced"),
        pytest.param("🐍" * 250_000, id="emoji"),
        pytest.param("@" * 1_000_000, id="signs"),
    ),
)
def test_a_megabyte_is_bounded_and_said_so(text: str) -> None:
    started = time.process_time()
    found = score(text)
    assert time.process_time() - started < 10
    assert found.detail["truncated"] is True
    assert found.detail["windows"] <= Toxicity.Config().max_windows


def test_windows_beyond_the_limit_are_left_out_and_said_so() -> None:
    few = Toxicity(Toxicity.Config(max_windows=1))
    few.load(resources())
    text = HARMLESS[0] * 8 + " " + RUDE[0]
    assert score(text, few).detail["truncated"] is True
    assert "truncated" not in score(text).detail
    assert value(text) > (score(text, few).value or 0)


def test_a_batch_gives_what_the_rows_alone_give() -> None:
    rows: list[Row] = [{"response": " ".join(texts)} for texts in (RUDE, HARMLESS, RUDE[:1] + HARMLESS[:3], HARMLESS[4:])]
    batch = loaded().score([*rows, {"response": None}])
    for row, among in zip(rows, batch, strict=False):
        [alone] = loaded().score([row])
        assert alone.value == pytest.approx(among.value, abs=1e-5)
        assert alone.detail["span"] == among.detail["span"]


def test_scoring_before_load_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="call load"):
        Toxicity().score([])


def test_an_encoder_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="toxicity was trained on"):
        Toxicity().load(Resources(encoder=shared))


def test_another_encoder_than_the_trained_one_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    class Other:
        name = "other"
        dimension = 384
        encode = staticmethod(encoder().encode)

    Toxicity().load(Resources(encoder=Other))
    assert "another encoder" in caplog.text


# --- spelling, features, windows -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "spelled"),
    (
        pytest.param("Hello   World", "hello world", id="case and spaces"),
        pytest.param("h3ll0 th3re", "hello there", id="digits for letters"),
        pytest.param("at 10:30 for $100, 3 of 5, B2B", "at 10:30 for $100, 3 of 5, b2b", id="real numbers"),
        pytest.param("w.o.r.d and w o r d", "word and word", id="set apart"),
        pytest.param("soooooo good", "soo good", id="stretched"),
        pytest.param("I 🐍 you", "i snake you", id="emoji"),
        pytest.param("@someone see https://example.org/x", "user see link", id="handles and links"),
        pytest.param("ﬁne ｗｉｄｅ", "fine wide", id="compatibility forms"),
        pytest.param("zero\u200bwidth", "zerowidth", id="invisible"),
    ),
)
def test_texts_are_read_in_one_spelling(text: str, spelled: str) -> None:
    assert plain(text) == spelled


@settings(max_examples=200)
@given(st.text(max_size=80))
def test_spelling_again_changes_nothing_much_and_features_stay_in_range(text: str) -> None:
    found = grams([plain(text), "other", plain(text)])
    assert found.columns.min(initial=0) >= 0
    assert found.columns.max(initial=0) < 2**toxicity_text.BITS
    first, third = (found.columns[found.starts[i] : found.starts[i + 1]] for i in (0, 2))
    assert first.tolist() == third.tolist() == grams([plain(text)]).columns.tolist()


def test_a_word_has_the_same_features_wherever_it_stands() -> None:
    one, two = (set(grams([text]).columns.tolist()) for text in ("lighthouse", "a very long way to the lighthouse here"))
    assert one
    assert len(one & two) >= len(one) - 2  # its edges are spaces in both, so all but what is by chance


def test_features_rarely_collide() -> None:
    words = [f"word{i}" for i in range(2000)]
    assert len(set(grams([" ".join(words)]).columns.tolist())) > 5000


@settings(max_examples=200)
@given(st.text(alphabet="ab .!?\n。", max_size=300), st.integers(5, 60), st.integers(1, 20), st.integers(1, 60))
def test_windows_hold_every_letter_once_in_order(text: str, size: int, most: int, least: int) -> None:
    found = windows(text, size, 10_000, least=least)
    assert all(0 < end - start <= size for start, end in found)
    joined = "".join(text[start:end] for start, end in found)
    assert re.sub(r"\s", "", joined) == re.sub(r"\s", "", text)
    assert windows(text, size, most, least=least) == found[:most]


# --- weights, card, training -----------------------------------------------------------------------------------------


def test_the_card_describes_the_weights() -> None:
    content = (files("detectors") / "weights" / "toxicity.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == card()["sha256"]
    assert len(content) < 3_000_000
    assert (card()["static"], card()["encoder"]) == (shared().name, encoder().name)
    assert card()["version"] == Toxicity.version
    assert card()["flag"] == Toxicity.flag
    assert list(read_head().band) == card()["band"]


def test_the_card_says_better_than_plain_regression_on_sources_it_has_not_seen() -> None:
    found = card()["leave_one_source_out"]
    assert found["gain_95"][0] > 0
    assert found["mean"] == pytest.approx(np.mean([one["auroc"] for one in found["sources"].values()]), abs=0.002)


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    for name in ("toxicity.json", "toxicity.safetensors"):
        (tmp_path / name).write_bytes((files("detectors") / "weights" / name).read_bytes())
    read_head(tmp_path)
    damaged = bytearray((tmp_path / "toxicity.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "toxicity.safetensors").write_bytes(damaged)
    with pytest.raises(HeadDamaged, match="reinstall"):
        read_head(tmp_path)


def test_a_head_comes_back_as_it_was_saved() -> None:
    head = read_head()
    again = load_head(save_head(head), head.static, head.encoder)
    assert again.band == head.band
    assert np.abs(again.second.grams - head.second.grams).max() <= np.abs(head.second.grams).max() / 127


def test_made_up_sentences_are_many_different_and_of_every_kind() -> None:
    found = made_up(200, seed=0)
    assert found == made_up(200, seed=0)
    assert {one.kind for one in found} == set(KINDS)
    assert len({one.text for one in found}) == len(found) > 500
    assert all("{" not in one.text for one in found if one.kind != "no_prose")


def test_training_runs_end_to_end_and_is_repeatable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "MADE_UP_EACH", 20)
    for part, numbers in (("train", range(40)), ("dev", range(40, 60))):
        with gzip.open(tmp_path / f"{part}.jsonl.gz", "wt", encoding="utf-8") as file:
            for i in numbers:
                text = f"{RUDE[i % 3]} {i}" if i % 2 else f"{HARMLESS[i % 7]} {i}"
                source, hate = ("convabuse", None) if i % 4 < 2 else ("stormfront", i % 2)
                file.write(json.dumps({"source": source, "text": text, "label": i % 2, "hate": hate}) + "\n")
    heads = []
    for out in (tmp_path / "one", tmp_path / "two"):
        table = training.tabulate(tmp_path, [], shared(), encoder())
        found = training.write(table, out)
        assert set(found["leave_one_source_out"]["sources"]) == {"convabuse", "stormfront"}
        heads.append((out / "toxicity.safetensors").read_bytes())
        assert read_head(out).encoder == encoder().name
    assert heads[0] == heads[1]


def test_the_readme_has_the_figures_of_the_card() -> None:
    text = README.read_text(encoding="utf-8").partition("\n## toxicity\n")[2]
    found = card()
    for name in ("macro", *training.SOURCES):
        for figure in ("auroc", "tpr", "fpr"):
            value_, low, high = found["dev"][name][figure]
            assert f"{value_:.3f} ({low:.3f} to {high:.3f})" in text, (name, figure)
    left_out = found["leave_one_source_out"]
    for key in ("mean", "plain", "gain"):
        low, high = left_out[f"{key}_95"]
        assert f"{left_out[key]:.3f} ({low:.3f} to {high:.3f})" in text, key
    assert f"flagged at {found['flag']} or above" in text
