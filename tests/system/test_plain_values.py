"""Values for JSON, compared with what the standard library writes of them."""

import json

import numpy as np

from intruders.system.plain_values import plain


def test_numbers_of_numpy_are_written_as_those_of_python_and_null_where_json_has_none() -> None:
    given = [
        np.float64("nan"),
        np.float32("inf"),
        np.float32(0.5),
        np.float64(0.1),
        np.int64(3),
        float("-inf"),
    ]
    assert json.dumps(plain(given), allow_nan=False) == "[null, null, 0.5, 0.1, 3, null]"
    assert plain({"values": np.array([1.0, 2.0])}) == {"values": [1.0, 2.0]}
