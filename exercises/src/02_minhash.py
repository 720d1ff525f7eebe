# ---
# mark: 2
# minutes: 35
# help: half
# needs: [Jaccard similarity, MinHash]
# draws:
#   FIRST: [smallest, largest]
#   GOAL: [0.5, 0.75, 0.96875]
# ---

# %% [markdown]
# # A signature, and the curve that it makes
#
# Write four methods: three parts of a search for near-duplicates, and the rule that sets it up.
#
# - `signature(numbers)`: for each hash function of `hashes` the **{{FIRST}}** value that it takes on
#   the set `numbers`. {{FIRST_SAID}}
# - `meet(one, two)`: whether two sets agree in a whole band. The signature has $b$ bands of $r$ places
#   side by side: places 0 to $r-1$ are the first band.
# - `chance(s)`: how likely two sets of Jaccard similarity $s$ meet, with these $b$ and $r$.
# - `choose(s, n)`: the pair $(b, r)$ for all of $n$ hash functions, $b\,r = n$, with as **many rows as
#   possible** such that two sets of similarity $s$ meet with a chance of at least {{GOAL}}. If there is
#   no such pair, `None`.
#
# **Target:** the hash functions $x \mapsto 3x+1$ and $x \mapsto 5x+3$, both modulo 11, make
# {{SIGNATURE}} of the set $\{1, 3, 7\}$. With 260 hash functions, `choose(0.8, 260)` gives
# {{CHOSEN}}, with a chance of {{CHANCE}}. (MT-NLG took 20 bands of 13 rows.)

# %% tags=["target"]
FIRST_SAID = {
    "smallest": "(As in the lesson.)",
    "largest": "(The lesson takes the smallest. The largest serves as well, if all sets are treated alike.)",
}[FIRST]
TAKE = {"smallest": "min", "largest": "max"}[FIRST]
_values = [[(a * x + b) % 11 for x in (1, 3, 7)] for a, b in ((3, 1), (5, 3))]
SIGNATURE = [sorted(v)[0 if FIRST == "smallest" else -1] for v in _values]
# The chances at s = 0.8; with more rows than 26 they are below 1 %.
_chances = {(260 // r, r): 1 - (1 - 0.8**r) ** (260 // r) for r in (1, 2, 4, 5, 10, 13, 20, 26)}
CHOSEN = max((pair for pair in _chances if _chances[pair] >= GOAL), key=lambda pair: pair[1])
CHANCE = f"{_chances[CHOSEN]:.3f}"


# %% tags=["stub"]
class Buckets:
    """Documents that meet in the buckets of b bands of r rows.

    hashes   list of b * r functions, each from a number to a number
    """

    def __init__(self, hashes, b, r):
        self.hashes, self.b, self.r = hashes, b, r

    def signature(self, numbers):
        """The {{FIRST}} value of each hash function on the set `numbers`, a list."""
        raise NotImplementedError("one value for each hash function: the {{FIRST}} on the set")

    def meet(self, one, two):
        """Whether the signatures of two sets agree in at least one whole band, a bool."""
        one, two = self.signature(one), self.signature(two)
        for start in range(0, self.b * self.r, self.r):
            raise NotImplementedError(f"do places {start} to {start + self.r - 1} agree?")
        return False

    def chance(self, s):
        """How likely two sets of similarity s meet."""
        raise NotImplementedError("one band agrees with chance s**r; and at least one of b?")

    @staticmethod
    def choose(s, n):
        """(b, r) with b * r = n and the most rows with which similarity s is found; or None."""
        for r in range(n, 0, -1):
            raise NotImplementedError(f"may there be {r} rows, and is the chance enough?")


# %% [markdown] tags=["hint"]
# `signature` has two loops in one line: over the hash functions outside, over the numbers inside. For
# `chance`, ask first how likely it is that one band does *not* agree.

# %% [markdown] tags=["hint"]
# A band is the slice `signature[start : start + r]`, and lists can be compared with `==`. All $b$ bands
# disagree with the chance $(1 - s^r)^b$. In `choose`, skip an `r` that does not divide `n`; the first
# one that reaches {{GOAL}} is the answer, since `r` begins with the largest.

# %% [markdown] tags=["hint"]
# One value of the signature is `{{TAKE}}(h(x) for x in numbers)`; make the list of it over `self.hashes`.
# In `choose` the chance is that of `Buckets([], n // r, r).chance(s)`; return the pair as soon as it is
# at least {{GOAL}}. A function that reaches its end returns `None` by itself.


# %% tags=["solution"]
class Buckets:
    def __init__(self, hashes, b, r):
        self.b, self.r = b, r
        self.hashes = hashes

    def signature(self, numbers):
        return [{{TAKE}}(h(x) for x in numbers) for h in self.hashes]

    def meet(self, one, two):
        one, two, r = self.signature(one), self.signature(two), self.r
        return any(one[i : i + r] == two[i : i + r] for i in range(0, self.b * r, r))

    def chance(self, s):
        return 1 - (1 - s**self.r) ** self.b

    @staticmethod
    def choose(s, n):
        for r in range(n, 0, -1):
            if n % r == 0 and Buckets([], n // r, r).chance(s) >= {{GOAL}}:
                return n // r, r


# %% tags=["check"]
from itertools import permutations, product

from minimtnlg.course.check import Feedback, expect


def _affine(a, b, size):
    return lambda x: (a * x + b) % size


def _shuffles(numbers):
    """Every order of the numbers as a hash function: the place of a number in that order."""
    return [dict(zip(numbers, order, strict=True)).__getitem__ for order in permutations(numbers)]


def target_signature(student):
    """The signature of the target"""
    hashes = [_affine(3, 1, 11), _affine(5, 3, 11)]
    what = "the signature of {1, 3, 7}; the values are 4, 10, 0 and 8, 7, 5"
    look_at = f"one number for each hash function: its {FIRST} value"
    expect(student(hashes, 1, 2).signature({1, 3, 7}), SIGNATURE, what, look_at)


def signatures_agree_as_often_as_sets_are_alike(student):
    """Over all 120 orders of five numbers, signatures agree in just the share s of the places"""
    hashes = _shuffles(range(5))
    for one, two in (({0, 1, 2}, {1, 2, 3}), ({0, 1}, {3, 4}), ({0, 1, 2, 3, 4}, {4}), ({2}, {2})):
        buckets = student(hashes, len(hashes), 1)
        pairs = list(zip(buckets.signature(one), buckets.signature(two), strict=False))
        what = f"places of two signatures by 120 hash functions, for {one} and {two}"
        expect(len(pairs), 120, what, "a list with one place for each hash function, equal or not")
        what = f"places of 120 in which the signatures of {one} and {two} agree"
        look_at = "the number that comes first of both sets together: do both sets have it?"
        expect(sum(a == b for a, b in pairs), 120 * len(one & two) // len(one | two), what, look_at)


def a_whole_band(student):
    """Two sets meet if one whole band agrees, wherever it is"""
    # A set of one number has that number's hash values as its signature.
    for places, b, r, wanted in (
        ("same same diff diff", 2, 2, True),
        ("diff diff same same", 2, 2, True),
        ("diff same same diff", 2, 2, False),
        ("same diff same diff", 2, 2, False),
        ("same diff diff same same same", 2, 3, True),
        ("same same diff same same diff", 2, 3, False),
        ("same same diff same same diff", 3, 2, True),
        ("diff same diff", 3, 1, True),
    ):
        hashes = [(lambda x: 5) if place == "same" else (lambda x: x) for place in places.split()]
        what = f"whether two sets meet; {b} bands of {r} rows, places {places}"
        got = student(hashes, b, r).meet({1}, {2})
        if got not in (True, False) or bool(got) != wanted:
            raise Feedback(what, wanted, got, "all r places of one band, and at least one band")


def the_chance_counted(student):
    """The chance, by counting every pattern of places that agree or not"""
    for b, r in ((1, 1), (2, 1), (1, 3), (2, 3), (3, 2), (5, 2)):
        for s in (0.0, 0.25, 0.5, 0.8, 1.0):
            total = 0.0
            for agrees in product((True, False), repeat=b * r):
                if any(all(agrees[i : i + r]) for i in range(0, b * r, r)):
                    total += s ** sum(agrees) * (1 - s) ** (b * r - sum(agrees))
            what = f"the chance of similarity {s} with {b} bands of {r} rows"
            look_at = "two sets miss each other only if every one of the b bands disagrees"
            expect(student([], b, r).chance(s), total, what, look_at, tol=1e-9)


def the_choice_of_the_target(student):
    """Bands and rows of 260 hash functions for similarity 0.8"""
    look_at = f"the most rows with which the chance at 0.8 is at least {GOAL}; b * r = 260"
    expect(_pair(student.choose(0.8, 260)), CHOSEN, "(b, r) for s = 0.8, n = 260", look_at)


def _pair(got):
    """(b, r) as a tuple, or what it was."""
    return tuple(got) if isinstance(got, tuple | list) else got


# %% tags=["hidden"]
def many_choices(student):
    """The choice for other thresholds and numbers of hash functions, by trying all pairs"""
    for s in (0.3, 0.52, 0.7, 0.88, 1.0):
        for n in (1, 12, 64, 97, 128, 260):
            fit = [
                (r, b) for b in range(1, n + 1) for r in range(1, n + 1)
                if b * r == n and 1 - (1 - s**r) ** b >= GOAL
            ]  # fmt: skip
            best, got = max(fit, default=None), _pair(student.choose(s, n))
            what = f"(b, r) for s = {s}, n = {n}, chance at least {GOAL}"
            if best is None:
                if got is not None:
                    raise Feedback(what, None, got, "no r that divides n reaches the chance")
                continue
            expect(got, best[::-1], what, "try every r that divides n, from the largest down")


def just_the_goal_is_enough(student):
    """A chance of exactly the goal is enough"""
    n = {0.5: 1, 0.75: 2, 0.96875: 5}[GOAL]  # n bands of one row, at 0.5: 1 - 1 / 2**n
    what = f"(b, r) for s = 0.5, n = {n}: with 1 row the chance is just {GOAL}"
    expect(_pair(student.choose(0.5, n)), (n, 1), what, f"at least {GOAL}")


def the_curve_on_real_shuffles(student):
    """Two bands over every pair of shuffles: as many meetings as the curve says"""
    hashes, one, two = _shuffles(range(4)), {0, 1, 2}, {1, 2, 3}  # s = 1/2
    met = sum(bool(student([f, g], 2, 1).meet(one, two)) for f in hashes for g in hashes)
    look_at = "a band of one row agrees in half of the cases, one of two bands in three quarters"
    expect(met, 24 * 24 * 3 // 4, "meetings of 576 with 2 bands of 1 row, s = 1/2", look_at)
    met = sum(bool(student([f, g], 1, 2).meet(one, two)) for f in hashes for g in hashes)
    expect(met, 24 * 24 // 4, "meetings of 576 with 1 band of 2 rows, s = 1/2", look_at)


def as_the_package(student):
    """The package's hash functions and a real text"""
    from pydoc_data.topics import topics

    from minimtnlg.data import minhash

    some = minhash.functions(26)
    a, b = (numbers.tolist() for numbers in some)
    hashes = [lambda x, a=a, b=b: (a * x + b) % 2**64 >> 32 for a, b in zip(a, b, strict=True)]
    numbers = minhash.shingles(topics["while"])
    got = student(hashes, 2, 13).signature(set(numbers.tolist()))
    values = [[h(x) for x in numbers.tolist()] for h in hashes]
    wanted = [sorted(v)[0 if FIRST == "smallest" else -1] for v in values]
    if FIRST == "smallest":
        assert wanted == minhash.signature(numbers, some).tolist()
    expect(got, wanted, "the signature of a page of help() by 26 hash functions")


# %% tags=["wrong"]
class TakesTheOtherEnd(Buckets):
    """Caught by: target_signature. The end is taken that one is used to, or by habit the other."""

    def signature(self, numbers):
        other = max if FIRST == "smallest" else min
        return [other(h(x) for x in numbers) for h in self.hashes]


class ManyOfOneHash(Buckets):
    """Caught by: target_signature. The first values of one hash function are thought as good."""

    def signature(self, numbers):
        values = sorted((self.hashes[0](x) for x in numbers), reverse=FIRST == "largest")
        return (values * len(self.hashes))[: len(self.hashes)]


class NumbersNotValues(Buckets):
    """Caught by: target_signature. The number that comes first is noted, not its hash value."""

    def signature(self, numbers):
        return [(min if FIRST == "smallest" else max)(numbers, key=h) for h in self.hashes]


class HashesEachOnce(Buckets):
    """Caught by: signatures_agree_as_often_as_sets_are_alike. A signature is made a set."""

    def signature(self, numbers):
        return sorted(set(super().signature(numbers)), reverse=SIGNATURE[0] > SIGNATURE[1])


class AnyPlace(Buckets):
    """Caught by: a_whole_band. One equal number is taken for a meeting."""

    def meet(self, one, two):
        pairs = zip(self.signature(one), self.signature(two), strict=True)
        return any(a == b for a, b in pairs)


class EveryPlace(Buckets):
    """Caught by: a_whole_band. Only equal signatures meet."""

    def meet(self, one, two):
        return self.signature(one) == self.signature(two)


class AnyRowsInARow(Buckets):
    """Caught by: a_whole_band. Any r neighbours that agree are taken for a band."""

    def meet(self, one, two):
        one, two, r = self.signature(one), self.signature(two), self.r
        return any(one[i : i + r] == two[i : i + r] for i in range(self.b * r - r + 1))


class OneBand(Buckets):
    """Caught by: the_chance_counted. The chance of one band is taken for that of all."""

    def chance(self, s):
        return s**self.r


class SumOfBands(Buckets):
    """Caught by: the_chance_counted. Chances of bands are added, though two may agree at once."""

    def chance(self, s):
        return min(1.0, self.b * s**self.r)


class BandsAndRowsSwapped(Buckets):
    """Caught by: the_chance_counted. Rows and bands change places in the formula."""

    def chance(self, s):
        return 1 - (1 - s**self.b) ** self.r


class FewestRows(Buckets):
    """Caught by: the_choice_of_the_target. More bands find more; nothing is said against them."""

    @staticmethod
    def choose(s, n):
        return n, 1


class LeavesSomeOver(Buckets):
    """Caught by: many_choices. Rows that do not divide n leave hash functions unused."""

    @staticmethod
    def choose(s, n):
        for r in range(n, 0, -1):
            if Buckets([], n // r, r).chance(s) >= GOAL:
                return n // r, r


class MoreThanTheGoal(Buckets):
    """Caught by: just_the_goal_is_enough. More than, where at least is meant."""

    @staticmethod
    def choose(s, n):
        for r in range(n, 0, -1):
            if n % r == 0 and Buckets([], n // r, r).chance(s) > GOAL:
                return n // r, r


class NeverNone(Buckets):
    """Caught by: many_choices. The last pair is returned although it misses the chance."""

    @staticmethod
    def choose(s, n):
        return Buckets.choose(s, n) or (n, 1)


# %% tags=["picture"]
def picture(student):
    """The curves of all ways to cut 64 hash functions into bands."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    at = [i / 100 for i in range(101)]
    for r in (2, 4, 8, 16):
        curve = [student([], 64 // r, r).chance(s) for s in at]
        ax.plot(at, curve, markevery=20, label=f"{64 // r} bands of {r} rows")
    ax.set(xlabel="similarity s", ylabel="chance to meet", xlim=(0, 1), ylim=(0, 1.02))
    ax.set_title("Your curves: more rows find less, and cut sharper")
    ax.legend()
    alt = "Chance to meet against similarity, for 64 hash functions in bands of 2, 4, 8 and 16 rows."
    return fig, alt


# %% [markdown] tags=["oral"]
# **Q.** Each document could draw its own random hash functions; they would be just as random. What
# would be lost?
#
# **A.** Everything. Two signatures agree in a place because the *same* order of all runs is looked at
# for both sets. With different orders equal values would say nothing about the sets.
#
# **Q.** You double the number of bands and keep the rows. What happens to the curve, what gets
# cheaper or dearer, and which documents that were missed before are found now?
#
# **A.** The curve moves to the left: every pair has a larger chance, also those that are not alike. It
# takes twice as many hash functions, and more pairs have to be compared exactly. Found are more of
# the pairs just at the threshold, and more pairs below it have to be sent away.
