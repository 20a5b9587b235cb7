"""A key stands for one content alone; what lies under the key of an earlier version is still found."""

import copy
import hashlib
import json
import pickle

import pytest
import torch

from latestart.fingerprints import Print, fingerprint, formerly, is_of, key_of
from latestart.lab.store import Store

ONE = fingerprint(torch.arange(6.0), "weights")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((b"ab", b"c"), (b"a", b"bc")),
        (("a\nb",), ("a", "b")),
        ((b"a\n",), ("a",)),
        (("a", "b"), ("ab",)),
        ((b"",), ()),
        ((b"", b"a"), (b"a",)),
        ((b"a", b"\x00" * 8), (b"a" + b"\x00" * 8,)),
        ((torch.zeros(2), torch.zeros(2)), (torch.zeros(4),)),
        ((torch.zeros(2, 2),), (torch.zeros(4),)),
        ((torch.zeros(4),), (torch.zeros(4, dtype=torch.int32),)),
        ((b"bytes 1\na",), (b"a",)),
    ],
)
def test_other_parts_have_another_fingerprint(one, other):
    assert fingerprint(*one) != fingerprint(*other)
    assert len(fingerprint(*one)) == 16 and fingerprint(*one) == fingerprint(*one)


def test_a_view_has_the_fingerprint_of_its_values():
    x = torch.arange(12.0).view(3, 4)
    assert fingerprint(x.T) == fingerprint(x.T.contiguous()) != fingerprint(x)


def test_the_former_print_is_a_hash_of_all_parts_in_one_row():
    def before(*pieces):
        return hashlib.sha256(b"".join(pieces)).hexdigest()[:16]

    x = torch.arange(6.0).view(2, 3)
    assert fingerprint("a", b"b", 0.5).former == before(b"a\n", b"b", b"0.5\n")
    assert fingerprint(x).former == before(b"torch.float32 (2, 3)", x.numpy().tobytes())
    assert fingerprint(ONE, b"c").former == before(f"{ONE.former}\n".encode(), b"c")
    named = {"weights": ONE, "prior": "attributes-" + ONE + "-bf16", "seed": 1}
    then = {"weights": ONE.former, "prior": f"attributes-{ONE.former}-bf16", "seed": 1}
    assert key_of(named).former == before(json.dumps(then, sort_keys=True).encode() + b"\n")
    assert key_of(named, sort=False).former == before(json.dumps(then).encode() + b"\n")
    assert formerly([named, (ONE,)]) == [then, [ONE.former]]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_print_keeps_its_former_one(again):
    assert again(ONE) == ONE and again(ONE).former == ONE.former != ONE
    assert ("attributes-" + ONE).former == f"attributes-{ONE.former}"
    assert Print("alone").former == "alone"


def test_what_a_file_says_may_be_of_an_earlier_version():
    named = {"weights": ONE, "shape": (1, 4), "start": 0.5}
    for told in (named, formerly(named)):
        assert is_of(json.loads(json.dumps(told)), named)
    assert not is_of({**named, "weights": "other", "shape": [1, 4]}, named) and not is_of(None, named)


def test_a_file_is_looked_for_under_both_keys(tmp_path):
    store = Store(tmp_path, "cell-{}.txt")
    present, former = (tmp_path / f"cell-{key}.txt" for key in (ONE, ONE.former))
    assert store.path(ONE) == present
    former.write_text("measured before")
    assert store.path(ONE) == former
    present.write_text("measured now")
    assert store.path(ONE) == present
