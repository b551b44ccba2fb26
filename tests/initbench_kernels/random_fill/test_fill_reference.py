"""The specification: Philox against its published vectors and torch's own; the inverse CDF against scipy."""

import numpy as np
import pytest
import scipy.special
import torch
from tolerances import QUANTILE_ABSOLUTE, QUANTILE_RELATIVE

from initbench_kernels.random_fill import bits, reference
from initbench_kernels.random_fill.parameters import largest_below, truncated_normal_parameters

# Random123's kat_vectors for philox4x32-10: counter, key, result.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
CPU = torch.device("cpu")
needs_stateless = pytest.mark.skipif(
    not bits.has_stateless_words(CPU), reason="this torch has no stateless Philox operators for the CPU"
)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_gives_the_published_vectors(counter, key, expected):
    assert reference.philox4x32(*counter, *key) == expected
    tensors = [torch.tensor([word, word]) for word in (*counter, *key)]
    assert [word.tolist() for word in reference.philox4x32(*tensors)] == [[word, word] for word in expected]


@needs_stateless
def test_stateless_and_plain_words_agree_for_one_key_and_for_many():
    one, other = torch.empty(1, 4000, dtype=torch.int32), torch.empty(1, 4000, dtype=torch.int32)
    for key, group in [(0, 0), (2**64 - 1, 2**32 - 500), (0x8000000000000001, 2**40 + 1)]:
        runs = bits.runs(torch.tensor([bits._signed(key)]), torch.tensor([group]))
        bits.stateless_words_(one, runs)
        bits.plain_words_(other, runs)
        assert torch.equal(one, other)
    keys, groups = torch.randint(-(2**63), 2**63 - 1, (1000,)), torch.randint(0, 2**60, (1000,))
    bits.stateless_words_(one.view(1000, 4), bits.runs(keys, groups))
    bits.plain_words_(other.view(1000, 4), bits.runs(keys, groups))
    assert torch.equal(one, other)


@pytest.mark.parametrize("keys", [[], ["w"], ["w", 3, "w", "layer.weight", 2**64 - 1], [*range(100), "w", 7]], ids=len)
def test_many_keys_are_derived_as_one_by_one(keys):
    seed = 2**63 + 5
    hashes = torch.tensor([bits._signed(reference.key_hash(key)) for key in keys], dtype=torch.int64)
    found = [key % 2**64 for key in reference.philox_keys(seed, hashes).tolist()]
    assert found == [high << 32 | low for low, high in (reference.philox_key(seed, key) for key in keys)]


@needs_stateless
def test_changed_private_uniform_is_noticed(monkeypatch):
    stateless_uniform_ = bits.stateless_uniform_

    def open_at_zero(out, runs):
        stateless_uniform_(out, runs)
        out.add_(2.0**-25)

    monkeypatch.setattr(bits, "stateless_uniform_", open_at_zero)
    bits.has_stateless_uniform.cache_clear()
    assert not bits.has_stateless_uniform(CPU)
    monkeypatch.undo()
    bits.has_stateless_uniform.cache_clear()
    assert bits.has_stateless_uniform(CPU)


@needs_stateless
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_private_uniform_serves_under_any_default_dtype(dtype):
    bits.has_stateless_uniform.cache_clear()
    torch.set_default_dtype(dtype)
    try:
        assert bits.has_stateless_uniform(CPU)
    finally:
        torch.set_default_dtype(torch.float32)
        bits.has_stateless_uniform.cache_clear()


def test_words_follow_from_the_key_and_the_position():
    seed, key = 2**63 + 5, "layer.weight"
    positions = torch.tensor([0, 1, 2, 3, 4, 5, 2**34 + 3, 2**33 * 4 + 1])
    k0, k1 = reference.philox_key(seed, key)
    expected = []
    for position in positions.tolist():
        group = position // 4
        expected.append(reference.philox4x32(group % 2**32, group >> 32, 0, 0, k0, k1)[position % 4])
    assert reference.bits_at(seed, key, positions).tolist() == expected


def test_keys_of_strings_integers_and_seeds_differ():
    keys = ["1", 1, "", 0, "0", "weight", "weight ", 2**64 - 1, "\ud800", "\ud801"]
    assert len({reference.philox_key(seed, key) for seed in (0, 1, 2**32, 2**64 - 1) for key in keys}) == 4 * len(keys)


@needs_stateless
def test_changed_private_operator_is_noticed(monkeypatch):
    def wrong(out, runs):
        bits.plain_words_(out, runs)
        out[-1, -1] += 1

    def removed(out, runs):
        raise RuntimeError("no such overload")

    for source in (wrong, removed):
        monkeypatch.setattr(bits, "stateless_words_", source)
        bits.has_stateless_words.cache_clear()
        assert not bits.has_stateless_words(CPU)
    monkeypatch.undo()
    bits.has_stateless_words.cache_clear()
    assert bits.has_stateless_words(CPU)


def test_square_root_rounds_exactly():
    x = torch.randint(0x3F800000, 0x40800000, (1 << 20,), dtype=torch.int32).view(torch.float32)
    assert np.array_equal(reference.exact_sqrt(x).numpy(), np.sqrt(x.numpy()))


def _words_near_the_tails() -> torch.Tensor:
    magnitudes = torch.cat(
        [torch.arange(4096), torch.logspace(3.6, 31, 200_000, base=2.0).long(), torch.arange(1, 4096)]
    )
    return torch.cat([magnitudes.clamp(max=2**31 - 1), magnitudes.clamp(max=2**31 - 1) + 2**31])


def test_normal_agrees_with_scipy_up_to_its_farthest_tail():
    words = _words_near_the_tails()
    tail = ((words & 0x7FFFFFFF).double() + 0.5) / 2**32
    expected = scipy.special.ndtri(tail.numpy()) * np.where(words.numpy() >> 31, 1.0, -1.0)
    found = reference.normal(words).double().numpy()
    np.testing.assert_allclose(found, expected, rtol=QUANTILE_RELATIVE, atol=QUANTILE_ABSOLUTE)
    assert np.abs(found).max() > 6.2


@pytest.mark.parametrize(
    ("a", "b"),
    [(-2, 2), (-np.inf, np.inf), (5, 6), (-6, -5), (1.44, np.inf), (-1.5, 8), (12, 12.5), (37, np.inf), (2.0, 2.001)],
)
def test_truncated_normal_agrees_with_scipy_between_any_bounds(a, b):
    words = _words_near_the_tails()
    row = truncated_normal_parameters(torch.float32, 0.0, 1.0, a, b)
    found = reference.truncated_normal(words, row).double().numpy()
    fraction = ((words & 0x7FFFFFFF).double().numpy() + 0.5) / 2**32
    sign = 1.0 if a + b > 0 or (not np.isfinite(a + b) and a > -np.inf) else -1.0
    low, high = (a, b) if sign > 0 else (-b, -a)
    from_low = (words.numpy() >> 31 == 1) == (sign > 0)
    # Upper tail's log probability of the value, from the mass on either side of it; measured in the upper tail, where
    # float64 keeps it: log(Q(low) (1 - f) + Q(high) f).
    above_low, above_high = scipy.special.log_ndtr(-low), scipy.special.log_ndtr(-high)
    share = np.where(from_low, fraction, 1 - fraction)
    log_tail = (
        np.logaddexp(above_low + np.log1p(-share), above_high + np.log(share))
        if np.isfinite(above_high)
        else (above_low + np.log1p(-share))
    )
    expected = -sign * scipy.special.ndtri_exp(log_tail)
    # The values near the lower end of a two-sided interval lose float64's digits in that formula.
    kept = share > 1e-9 if low < 0 else slice(None)
    np.testing.assert_allclose(found[kept], expected[kept], rtol=4 * QUANTILE_RELATIVE, atol=QUANTILE_ABSOLUTE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_largest_number_below_a_bound_is_the_neighbour(dtype):
    for x in [1.0, 0.1, -0.1, 3.0, 1e-3, -2.5, 0.0, 65000.0, -65000.0, 1e-7, -1e-7, 6e-8, 0.30000001]:
        below = largest_below(x, dtype)
        stored = torch.tensor(below, dtype=torch.float64).to(dtype)
        assert stored.double().item() == below < x
        # float64 tensors hold float32 numbers here, so the neighbour is float32's.
        kind = torch.float32 if dtype == torch.float64 else dtype
        width = {2: torch.int16, 4: torch.int32}[kind.itemsize]
        integer = stored.to(kind).view(width)
        above = (
            torch.zeros((), dtype=kind) if below == -(2.0**-149) else (integer + (1 if below >= 0 else -1)).view(kind)
        )
        assert above.double().item() >= x
