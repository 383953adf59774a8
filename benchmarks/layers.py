"""Shows what an audit of single layers costs: the shapes of Llama-2-7B, and two of Llama-2-70B to extrapolate to.

Each shape is judged twice, with an update that brings no intruders and with one that does.
"""

from collections.abc import Iterator, Sequence

from .inputs import HOT, MILD, Lora, llm_like, lora_update
from .measure import Row, row_of

LLAMA_2_7B = ((4096, 4096), (11008, 4096), (4096, 11008))
QUICK = ((512, 512), (1376, 512), (512, 1376))  # the same, an eighth of each side
LARGE = ((8192, 28672), (28672, 8192))
QUICK_LARGE = ((1024, 3584), (3584, 1024))


def layer_rows(
    section: str, shapes: Sequence[tuple[int, int]], *, with_others: bool, repeats: int
) -> Iterator[Row]:
    """Two rows a shape; ``with_others`` runs the reference beside the engine, and PEFT on the first shape.

    PEFT decides by the reference's two decompositions, and would take half of the whole run to say so.
    """
    for m, n in shapes:
        base = llm_like(m, n, seed=0)
        for strength in (MILD, HOT):
            yield row_of(
                section,
                Lora(base, *lora_update(m, n, strength, seed=1)),
                with_reference=with_others,
                with_peft=with_others and (m, n) == shapes[0],
                repeats=repeats,
            )
