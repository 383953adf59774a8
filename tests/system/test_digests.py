"""What is hashed of files and of JSON values: against one hash of the bytes that it is said to be of."""

import hashlib
from pathlib import Path

import xxhash

from intruders.system.digests import add_files, digest_of_file, json_digest


def test_name_size_and_content_of_every_file_follow_each_other(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    files = [tmp_path / "b.json", tmp_path / "inner" / "a.bin", tmp_path / "empty"]
    for file, content in zip(files, (b"{}", bytes(range(256)), b""), strict=True):
        file.write_bytes(content)
    expected = b"b.json 2 {}" + b"a.bin 256 " + bytes(range(256)) + b"empty 0 "
    used = xxhash.xxh3_128(b"before ")
    add_files(used, files)
    assert used.hexdigest() == xxhash.xxh3_128(b"before " + expected).hexdigest()
    assert digest_of_file(files[0]) == xxhash.xxh3_128(b"{}").hexdigest()


def test_it_is_the_hash_of_the_text_with_sorted_keys() -> None:
    value = {"b": [1, 0.5, None], "a": {"é": True, "": "x"}}
    text = r'{"a": {"": "x", "\u00e9": true}, "b": [1, 0.5, null]}'
    wanted = hashlib.sha256(text.encode()).hexdigest()
    assert json_digest(value) == wanted
    assert json_digest(value, 16) == wanted[:16]
