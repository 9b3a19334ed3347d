"""Bytes of files stay out of texts."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from typing import Any

import pytest

from monitor.genai.media import lean, lean_text, part
from monitor.genai.messages import parts

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(200))
BASE64 = b64encode(PNG).decode()
URI = f"data:image/png;base64,{BASE64}"
KNOWN = {"mime_type": "image/png", "size": len(PNG), "sha256": sha256(PNG).hexdigest()}


@pytest.mark.parametrize(
    "value",
    (
        {"type": "image_url", "image_url": {"url": URI}},
        {"type": "image_url", "image_url": URI},
        {"type": "input_image", "image_url": URI},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": BASE64}},
        {"type": "blob", "modality": "image", "mime_type": "image/png", "content": BASE64},
        {"type": "image", "image": URI},
        {"type": "image", "image": BASE64, "mediaType": "image/png"},
        {"inlineData": {"mimeType": "image/png", "data": BASE64}},
        {"inline_data": {"mime_type": "image/png", "data": BASE64}},
        {"message_content": {"type": "image", "image": {"image": {"url": URI}}}},
    ),
)
def test_a_picture_in_any_form_leaves_its_type_size_and_hash(value: dict[str, Any]) -> None:
    assert parts([value]) == [{"type": "image", **KNOWN}]


@pytest.mark.parametrize(
    ("value", "want"),
    (
        ({"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}, {"type": "image", "uri": "https://x.org/a.png"}),
        ({"type": "image", "source": {"type": "url", "url": "https://x.org/a"}}, {"type": "image", "uri": "https://x.org/a"}),
        ({"type": "uri", "modality": "video", "uri": "gs://b/v.mp4"}, {"type": "video", "uri": "gs://b/v.mp4"}),
        ({"type": "file", "mime_type": "application/pdf", "file_id": "f-1"},
         {"type": "file", "mime_type": "application/pdf", "uri": "f-1"}),
        ({"type": "input_audio", "input_audio": {"data": BASE64, "format": "wav"}},
         {"type": "audio", **KNOWN, "mime_type": "audio/wav"}),
        ({"type": "image", "uri": "s3://b/k", "size": 12, "sha256": "ab", "vector": [0.5, 1]},
         {"type": "image", "uri": "s3://b/k", "size": 12, "sha256": "ab", "vector": [0.5, 1.0]}),
    ),
)  # fmt: skip
def test_where_a_file_lies_and_what_the_sender_knows_of_it_is_kept(value: dict[str, Any], want: dict[str, Any]) -> None:
    assert parts([value]) == [want]


def test_a_text_with_bytes_in_it_keeps_the_text() -> None:
    stub = f"[image/png {len(PNG)} bytes sha256:{KNOWN['sha256']}]"
    assert lean_text(f"See ![it]({URI}) here") == f"See ![it]({stub}) here"
    assert lean_text(f'{{"content": "{BASE64}"}}') == f'{{"content": "{stub.replace("image/png", "file")}"}}'
    random = "FwRnuGYba6TtoOscqmiqNBgOqoBivgjJMOYrbl2igkJHQweZ" * 20
    assert lean_text(random) == random, "a long word is no file"


def test_bytes_are_taken_out_of_values_however_deep_and_nothing_is_changed_in_place() -> None:
    value = {"a": [{"b": URI}], "n": 1}
    assert BASE64 not in str(lean(value))
    assert value["a"] == [{"b": URI}]
    deep: Any = URI
    for _ in range(50):
        deep = [deep]
    assert BASE64 not in str(lean(deep))


def test_base64_that_was_cut_short_is_measured_roughly_and_has_no_hash() -> None:
    found = part("image", "image/png", BASE64[:101])
    assert found == {"type": "image", "mime_type": "image/png", "size": 75, "sha256": None}
