# ---
# mark: 2
# minutes: 25
# help: half
# needs: [top-p, temperature]
# draws:
#   EQUALS: [smaller, larger]
#   LINE: [ids, probabilities]
# ---

# %% [markdown]
# # Top-p
#
# A model has given a probability to each token. Keep the likely ones and draw from them.
#
# - **Keep** the fewest tokens that reach $p$ together, the likeliest first. Of equally likely ones the
#   one with the {{EQUALS}} id comes first.
# - **Draw**: lay the kept tokens side by side on a line, {{ORDER}}. Each is as long
#   as it is probable. The line is shorter than 1 now, so a `number` from 0 to 1 (1 itself never comes)
#   points at that share of its length. The token there is drawn; where one ends the next begins.
#
# **Target:** of `[0.25, 0.5, 0.15, 0.1]` with `p = 0.7` tokens 0 and 1 are kept. The line is 0.75 long:
# token {{LEFT}} up to {{END}}, then token {{RIGHT}}. The number 0.2 points at 0.15, which is token {{LEFT}};
# 0.9 points at 0.675, which is token {{RIGHT}}.

# %% tags=["target"]
ORDER = "in the order of their *ids*" if LINE == "ids" else "in the order in which they were *kept*"
LEFT, RIGHT, END = (0, 1, 0.25) if LINE == "ids" else (1, 0, 0.5)
KEY = "-probabilities[i]" if EQUALS == "smaller" else "(-probabilities[i], -i)"
WALK = "sorted(kept)" if LINE == "ids" else "kept"

# %%


# %% tags=["stub"]
def top_p(probabilities, p, number):
    """The token that `number` draws from the likeliest tokens, which reach p together.

    probabilities  list of floats, one for each token; they sum to 1
    p              above 0, at most 1
    number         from 0 to 1, without 1; a float64, as all Python's floats: keep that precision
    returns        an id: 0 to len(probabilities) - 1
    """
    kept, total = [], 0.0
    for i in range(len(probabilities)):  # is this the right order?
        if total >= p:
            break
        kept.append(i)
        total += probabilities[i]
    raise NotImplementedError("put the ids into the right order above, then walk along the line")


# %% [markdown] tags=["hint"]
# Two steps, and an order for each: one to decide who stays, one to draw. What may the sum of the kept
# ones be, at least and at most?

# %% [markdown] tags=["hint"]
# `sorted(ids, key=lambda i: -probabilities[i])` has the likeliest first and leaves equal ones in their
# order; a pair as the key, such as `(first, second)`, decides equal ones by the second. The loop adds
# ids as long as those that are there fall short of `p`. The one that reaches it belongs to them.

# %% [markdown] tags=["hint"]
# Then `at = number * sum(...)` over the kept ones. Walk along them {{ORDER}} and add up
# their lengths: the first token whose end lies *beyond* `at` is the answer.

# %% [markdown] tags=["oral"]
# **Q.** Why is it right to multiply `number` by the sum of the kept ones? What else could you do, and what
# comes out wrong if you do neither?
#
# **A.** The kept tokens have to have probability 1 together. One can also divide each by the sum. With
# neither, numbers beyond the end of the line point at nothing, and whoever gives them to the last token
# makes that one too likely.
#
# **Q.** Temperature below 1 and top-p both avoid odd tokens. In what do they differ at a place where forty
# tokens are equally likely?
#
# **A.** A temperature changes nothing there: equal logits stay equal, and the tail keeps all its tokens. Top-p
# with 0.9 drops four of the forty.


# %% tags=["solution"]
def top_p(probabilities, p, number):
    kept, total = [], 0.0
    for i in sorted(range(len(probabilities)), key=lambda i: {{KEY}}):
        if total >= p:
            break
        kept.append(i)
        total += probabilities[i]
    at, end = number * sum(probabilities[i] for i in {{WALK}}), 0.0
    for i in {{WALK}}:
        end += probabilities[i]
        if end > at:
            return i
    return {{WALK}}[-1]  # where rounding has eaten the last bit of the line


# %% tags=["check"]
import operator

from minimtnlg.course.check import Feedback, expect

FOUR = [0.125, 0.5, 0.125, 0.25]  # sums are exact
BY_HAND = {  # the line of FOUR with p = 1
    ("ids", "smaller"): [0, 1, 2, 3], ("ids", "larger"): [0, 1, 2, 3],
    ("probabilities", "smaller"): [1, 3, 0, 2], ("probabilities", "larger"): [1, 3, 2, 0],
}[LINE, EQUALS]  # fmt: skip


def _drawn(student, probabilities, p, count=1000):
    """How often each token is drawn by `count` numbers, evenly spread from 0 to 1."""
    times = [0] * len(probabilities)
    for k in range(count):
        token = student(list(probabilities), p, (k + 0.5) / count)
        try:
            at = operator.index(token)  # any whole number, numpy's and torch's too
        except TypeError:
            at = -1
        if not 0 <= at < len(times):
            raise Feedback("what is returned", "an id, from 0 to the number of tokens less 1", token)
        times[at] += 1
    return times


def _expect_drawn(student, p, right, stay, given=FOUR, count=1000):
    """`right` says how often each token is drawn; `stay` is said to those who keep other tokens."""
    times = _drawn(student, given, p, count)
    kept = [t > 0 for t in times] == [t > 0 for t in right]
    scale = "the right tokens stay. Their line is shorter than 1: number times its length is the place"
    expect(times, right, f"how often each is drawn of {count}", scale if kept else stay)


def the_target(student):
    """The four tokens of the target"""
    given = [0.25, 0.5, 0.15, 0.1]
    for number, token in ((0.0, LEFT), (0.2, LEFT), (0.9, RIGHT), (0.999, RIGHT)):
        expect(student(list(given), 0.7, number), token, f"the token that {number} draws",
               f"token 1 falls short of 0.7, so 0 stays too, 0.75 together. {number} x 0.75 = {number * 0.75:.3f} "
               f"is the place on their line, {ORDER}")  # fmt: skip


def the_one_that_reaches_p_stays(student):
    """p = 0.6 needs a second token, though the first has most of it"""
    _expect_drawn(student, 0.6, [0, 667, 0, 333],
                  "0.5 falls short of 0.6, so the next likely one has to stay as well, and no other")  # fmt: skip


def no_more_than_needed(student):
    """p = 0.75 is reached exactly by two tokens"""
    _expect_drawn(student, 0.75, [0, 667, 0, 333],
                  "the two likeliest have 0.75 together: a third is one too many")  # fmt: skip


def all_of_them(student):
    """p = 1 keeps every token, with its own probability"""
    _expect_drawn(student, 1.0, [125, 500, 125, 250], "only all four together reach 1")


def all_of_them_in_order(student):
    """The order on the line"""
    end = 0.0
    for token in BY_HAND:
        for number in (end + 0.05, end + FOUR[token] - 0.05):
            expect(student(list(FOUR), 1.0, number), token, f"the token that {number} draws",
                   f"all are kept, and lie on the line {ORDER}")  # fmt: skip
        end += FOUR[token]


def the_first_of_equals(student):
    """Of equally likely tokens not all stay"""
    stay = [500, 500, 0, 0] if EQUALS == "smaller" else [0, 0, 500, 500]
    _expect_drawn(student, 0.5, stay, f"two tokens reach 0.5, and those with {EQUALS} ids come first",
                  given=[0.25] * 4)  # fmt: skip


def where_one_ends_the_next_begins(student):
    """A number that points exactly at the end of a token draws the next one"""
    end = 0.0
    for token, following in zip(BY_HAND, BY_HAND[1:], strict=False):
        end += FOUR[token]
        expect(student(list(FOUR), 1.0, end), following, f"the token that {end} draws",
               f"token {token} lies on the line up to {end} and does not have its end")  # fmt: skip


# %% tags=["hidden"]
def a_sure_model(student):
    """One token has nearly everything"""
    _expect_drawn(student, 0.9, [0, 100, 0], "0.98 alone reaches 0.9", [0.01, 0.98, 0.01], 100)


def one_alone(student):
    """A vocabulary of one token, and a very small p"""
    expect(student([1.0], 1.0, 0.5), 0, "the only token")
    _expect_drawn(student, 1e-9, [0, 10, 0, 0], "one token stays, however small p is", count=10)


def what_can_not_come_never_comes(student):
    """Tokens of probability 0"""
    given = [0.0, 0.5, 0.0, 0.5, 0.0]
    one, two = (3, 1) if (LINE, EQUALS) == ("probabilities", "larger") else (1, 3)
    for number, token in ((0.0, one), (0.5, two), (0.999, two)):
        expect(student(list(given), 1.0, number), token, f"the token that {number} draws",
               "a token of length 0 has no place on the line")  # fmt: skip


def the_largest_number_below_1(student):
    """1 - 2**-53, in the precision of Python's floats"""
    right = 3 if LINE == "ids" else BY_HAND[-1]
    try:
        token = student(list(FOUR), 1.0, 1 - 2**-53)
    except (IndexError, ValueError, StopIteration) as error:
        token = repr(error)
    expect(token, right, "the token that 1 - 2**-53 draws, the largest number below 1",
           "rounded to float32 this number is 1, and points behind the line: compute in float64, with "
           "torch by dtype=torch.float64")  # fmt: skip


def as_the_package(student):
    """Random distributions, as the package cuts them and draws from them"""
    import torch

    from minimtnlg.evaluate.sampling import distribution, drawn

    g = torch.Generator().manual_seed(1)
    for p in (0.3, 0.9, 0.99):
        for logits in torch.randn(20, 50, generator=g, dtype=torch.float64) * 2:
            number = torch.rand((), generator=g, dtype=torch.float64)
            # The package's line is in the order of ids: so give the likeliest the smallest ones.
            name = torch.arange(50) if LINE == "ids" else logits.argsort(descending=True)
            token = name[drawn(distribution(logits[name], top_p=p), number)].item()
            given = logits.softmax(0).tolist()
            expect(student(given, p, number.item()), token, f"the token, with p = {p}",
                   "where only a few of many fail: sums in float32 end at another place")  # fmt: skip


# %% tags=["wrong"]
def _key(probabilities):
    return lambda i: (-probabilities[i], i if EQUALS == "smaller" else -i)


def _on_the_line(kept):
    return sorted(kept) if LINE == "ids" else kept


def _answer(probabilities, p, number, stays=None, line=None, scaled=True, beyond=True, order=None):
    kept, total = [], 0.0
    stays = stays or (lambda total, one, p: total < p)
    for i in order or sorted(range(len(probabilities)), key=_key(probabilities)):
        if not stays(total, probabilities[i], p):
            break
        kept.append(i)
        total += probabilities[i]
    at, end = number * (sum(probabilities[i] for i in kept) if scaled else 1.0), 0.0
    line = (line or _on_the_line)(kept)
    for i in line:
        end += probabilities[i]
        if end > at or (end == at and not beyond):
            return i
    return line[-1] if line else 0


def stops_before_p(probabilities, p, number):
    """Caught by: the_one_that_reaches_p_stays. What is kept may not have more than p."""
    return _answer(probabilities, p, number, lambda total, one, p: total + one <= p)


def one_too_many(probabilities, p, number):
    """Caught by: no_more_than_needed. What is kept has to have more than p."""
    return _answer(probabilities, p, number, lambda total, one, p: total <= p)


def forgets_to_scale(probabilities, p, number):
    """Caught by: the_one_that_reaches_p_stays. The line is still 1 long; the end goes to the last."""
    return _answer(probabilities, p, number, scaled=False)


def the_other_order_on_the_line(probabilities, p, number):
    """Caught by: all_of_them_in_order. By probabilities instead of ids, or the reverse."""
    return _answer(probabilities, p, number, line=list if LINE == "ids" else sorted)


def ends_belong_to_it(probabilities, p, number):
    """Caught by: where_one_ends_the_next_begins. A token has its end as well as its beginning."""
    return _answer(probabilities, p, number, beyond=False)


def keeps_what_is_likely_by_itself(probabilities, p, number):
    """Caught by: the_target. A token stays if its own probability is above 1 - p."""
    kept = [i for i, x in enumerate(probabilities) if x > 1 - p]
    return _answer([x if i in kept else 0 for i, x in enumerate(probabilities)], 1.0, number)


def computes_in_float32(probabilities, p, number):
    """Caught by: the_largest_number_below_1. torch.tensor rounds Python's floats to float32."""
    import torch

    order = sorted(range(len(probabilities)), key=_key(probabilities))
    ends = torch.tensor([probabilities[i] for i in order]).cumsum(0)
    kept = order[: int((ends < p).sum()) + 1]
    line = _on_the_line(kept)
    ends = torch.tensor([probabilities[i] for i in line]).cumsum(0)
    at = torch.tensor(number) * ends[-1]
    return line[torch.searchsorted(ends, at, right=True).item()]


def takes_the_likeliest(probabilities, p, number):
    """Caught by: the_target. The likeliest token is the best choice."""
    return max(range(len(probabilities)), key=lambda i: probabilities[i])


def the_last_of_equals(probabilities, p, number):
    """Caught by: the_first_of_equals. Equal ones come in the other order of their ids."""
    ids = list(range(len(probabilities)))[:: -1 if EQUALS == "smaller" else 1]
    return _answer(probabilities, p, number, order=sorted(ids, key=lambda i: -probabilities[i]))


def cuts_ids_not_probabilities(probabilities, p, number):
    """Caught by: the_one_that_reaches_p_stays. Walks along the ids until p is reached, unsorted."""
    return _answer(probabilities, p, number, order=range(len(probabilities)))
