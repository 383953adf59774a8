"""What is hashed of JSON values: against one hash of the text that it is said to be of."""

import hashlib

from intruders.system.digests import json_digest


def test_it_is_the_hash_of_the_text_with_sorted_keys() -> None:
    value = {"b": [1, 0.5, None], "a": {"é": True, "": "x"}}
    text = r'{"a": {"": "x", "\u00e9": true}, "b": [1, 0.5, null]}'
    wanted = hashlib.sha256(text.encode()).hexdigest()
    assert json_digest(value) == wanted
    assert json_digest(value, 16) == wanted[:16]
