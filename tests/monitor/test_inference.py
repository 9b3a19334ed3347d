"""What model servers log: payloads of each protocol, and SageMaker's captures of them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from monitor.cloudevents import inference
from monitor.cloudevents.inference import NoInference
from monitor.sources.mapping import Columns
from monitor.sources.sagemaker import predictions

INPUTS: dict[str, tuple[Any, tuple[str, ...], list[dict[str, Any]]]] = {
    "V1, lists": ({"instances": [[1, 2], [3, 4]]}, (), [{"f0": 1, "f1": 2}, {"f0": 3, "f1": 4}]),
    "V1, named by us": ({"instances": [[1, 2]]}, ("a", "b"), [{"a": 1, "b": 2}]),
    "V1, named by the sender": ({"instances": [{"a": 1}]}, ("x",), [{"a": 1}]),
    "V1, texts": ({"instances": ["hello", "you"]}, ("text",), [{"text": "hello"}, {"text": "you"}]),
    "V1 of SageMaker": ({"instances": [{"features": [1, 2]}]}, ("a", "b"), [{"a": 1, "b": 2}]),
    "V2, one tensor": (
        {"inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 4.0]}]}, (),
        [{"x_0": 1.0, "x_1": 2.0}, {"x_0": 3.0, "x_1": 4.0}],
    ),
    "V2, nested data, named by us": (
        {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [[1.0, 2.0]]}]}, ("a", "b"),
        [{"a": 1.0, "b": 2.0}],
    ),
    "V2, a tensor for each feature": (
        {"inputs": [
            {"name": "age", "shape": [2, 1], "datatype": "INT64", "data": [30, 40]},
            {"name": "city", "shape": [2], "datatype": "BYTES", "data": ["Oslo", "Rome"]},
        ]}, (), [{"age": 30, "city": "Oslo"}, {"age": 40, "city": "Rome"}],
    ),
    "V2, in an order of its own": (
        {"inputs": [
            {"name": "b", "shape": [1], "datatype": "INT64", "data": [2]},
            {"name": "a", "shape": [1], "datatype": "INT64", "data": [1]},
        ]}, ("a", "b"), [{"a": 1, "b": 2}],
    ),
    "Seldon, ndarray": ({"data": {"names": ["a", "b"], "ndarray": [[1, "x"]]}}, (), [{"a": 1, "b": "x"}]),
    "Seldon, tensor": (
        {"data": {"names": ["a", "b"], "tensor": {"shape": [2, 2], "values": [1, 2, 3, 4]}}}, (),
        [{"a": 1, "b": 2}, {"a": 3, "b": 4}],
    ),
    "a bare list": ([1, 2], (), [{"f0": 1, "f1": 2}]),
    "a bare object": ({"a": 1}, (), [{"a": 1}]),
}  # fmt: skip


@pytest.mark.parametrize("name", INPUTS)
def test_a_request_is_a_row_of_features_for_each_instance(name: str) -> None:
    payload, names, expected = INPUTS[name]
    assert inference.features(payload, names) == expected


OUTPUTS: dict[str, tuple[Any, list[dict[str, Any]]]] = {
    "V1": ({"predictions": [1, 0]}, [{"output": 1}, {"output": 0}]),
    "V1, probabilities": ({"predictions": [[0.1, 0.9]]}, [{"output_0": 0.1, "output_1": 0.9}]),
    "V1, objects": ({"predictions": [{"score": 0.9, "label": "x"}]}, [{"score": 0.9, "label": "x"}]),
    "V2": (
        {"model_name": "m", "outputs": [{"name": "predict", "shape": [2], "datatype": "INT64", "data": [1, 0]}]},
        [{"predict": 1}, {"predict": 0}],
    ),
    "Seldon": ({"data": {"names": ["proba"], "ndarray": [[0.2]]}}, [{"proba": 0.2}]),
    "a bare number": (0.5, [{"output": 0.5}]),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_response_is_a_row_of_outputs_for_each_instance(name: str) -> None:
    payload, expected = OUTPUTS[name]
    assert inference.outputs(payload) == expected


BROKEN: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "names that do not fit": ({"instances": [[1, 2, 3]]}, ("a", "b"), "3 values, and 2 names for them: a, b"),
    "a tensor without data": ({"inputs": [{"name": "x", "shape": [1]}]}, (), "a tensor without data"),
    "a shape that does not fit": ({"inputs": [{"name": "x", "shape": [2, 2], "data": [1]}]}, (), "x: 1 values do not fill"),
    "a shape that is none": ({"inputs": [{"name": "x", "shape": ["n"], "data": [1]}]}, (), "is no shape"),
    "tensors of two lengths": (
        {"inputs": [{"name": "x", "shape": [1], "data": [1]}, {"name": "y", "shape": [2], "data": [1, 2]}]}, (), "x 1, y 2",
    ),
    "nothing": (None, (), "empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_payload_that_does_not_fit_together_says_how(name: str) -> None:
    payload, names, message = BROKEN[name]
    with pytest.raises(NoInference, match=message):
        inference.features(payload, names)


def test_each_instance_is_a_record_with_its_answer() -> None:
    one = inference.records([{"a": 1}], [{"output": 5}], Columns(), record_id="r", model=None)
    assert one == [{"record_id": "r", "features": {"a": 1}, "prediction": 5}]
    two = inference.records([{"a": 1}, {"a": 2}], [{"p": 5, "q": 6}] * 2, Columns(columns={"prediction": "q"}), record_id="r")
    assert [r["record_id"] for r in two] == ["r#0", "r#1"]
    assert two[0]["prediction"] == 6
    assert two[0]["outputs"] == {"p": 5, "q": 6}
    with pytest.raises(NoInference, match="1 instances in the request and 2 in the response"):
        inference.records([{"a": 1}], [{"output": 5}] * 2, Columns(), record_id="r")


def capture(data_in: str, data_out: str, encoding: str = "CSV", kind: str = "text/csv", **meta: Any) -> dict[str, Any]:
    """A line as the documentation of SageMaker's data capture shows it."""
    side = {"observedContentType": kind, "encoding": encoding}
    return {
        "captureData": {
            "endpointInput": {**side, "mode": "INPUT", "data": data_in},
            "endpointOutput": {**side, "mode": "OUTPUT", "data": data_out},
        },
        "eventMetadata": {"eventId": "e-1", "inferenceTime": "2026-03-01T12:00:00Z", **meta},
        "eventVersion": "0",
    }


NAMED = Columns(columns={"features": ("age", "city")})
CAPTURES: dict[str, dict[str, Any]] = {
    "CSV": capture("42,Oslo", "0.07"),
    "CSV in BASE64": capture(base64.b64encode(b"42,Oslo\n").decode(), base64.b64encode(b"0.07").decode(), "BASE64"),
    "JSON": capture(
        json.dumps({"instances": [{"features": [42, "Oslo"]}]}), json.dumps({"predictions": [0.07]}), "JSON", "application/json"
    ),
    "JSON lines": capture('{"age": 42, "city": "Oslo"}\n', "0.07\n", "JSON", "application/jsonlines"),
}


@pytest.mark.parametrize("name", CAPTURES)
def test_a_captured_request_is_a_prediction(name: str) -> None:
    assert predictions(CAPTURES[name], NAMED) == [
        {
            "record_id": "e-1",
            "timestamp": "2026-03-01T12:00:00Z",
            "features": {"age": 42, "city": "Oslo"},
            "prediction": 0.07,
        }
    ]


@pytest.mark.parametrize("answer", ("0.1\n0.2\n", "0.1,0.2"))
def test_a_captured_batch_is_as_many_predictions_by_the_inference_id(answer: str) -> None:
    found = predictions(capture("1,a\n2,b\n", answer, inferenceId="i-1"), NAMED)
    assert [(r["record_id"], r["features"]["age"], r["prediction"]) for r in found] == [("i-1#0", 1, 0.1), ("i-1#1", 2, 0.2)]


def test_outputs_of_json_are_chosen_by_name() -> None:
    line = capture("1,a", '{"predictions": [{"score": 0.9, "predicted_label": 1}]}')
    line["captureData"]["endpointOutput"] |= {"observedContentType": "application/json", "encoding": "JSON"}
    chosen = Columns(columns={"prediction": "predicted_label", "probability": "score"})
    (found,) = predictions(line, chosen)
    assert (found["prediction"], found["probability"], found["features"]) == (1, 0.9, {"f0": 1, "f1": "a"})


def test_a_side_may_be_missing() -> None:
    line = capture("1,a", "0.5")
    del line["captureData"]["endpointOutput"]
    assert "prediction" not in predictions(line, NAMED)[0]


@pytest.mark.parametrize(
    ("line", "message"),
    (
        ({"record_id": "a"}, "no captureData"),
        ({"captureData": {}}, "neither endpointInput nor endpointOutput"),
        (capture("!!", "0.5", "BASE64"), "in BASE64 is no text"),
        (capture("{", "0.5", "JSON", "application/json"), "neither CSV nor JSON"),
        (capture("1,a,b", "0.5"), "3 values, and 2 names"),
    ),
)
def test_a_line_that_is_no_capture_says_why(line: Any, message: str) -> None:
    with pytest.raises(NoInference, match=message):
        predictions(line, NAMED)
