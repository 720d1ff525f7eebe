# ---
# mark: 2
# minutes: 25
# needs: [top-p, temperature]
# ---

# %% [markdown]
# # Top-p
#
# A model has given a probability to each token. Keep the likely ones and draw from them.
#
# - **Keep** the fewest tokens that reach $p$ together, the likeliest first. Of equally likely ones the
#   one with the smaller id comes first.
# - **Draw**: lay the kept tokens side by side on a line, in the order of their *ids*. Each is as long as
#   it is probable. The line is shorter than 1 now, so a `number` from 0 to 1 (1 itself never comes)
#   points at that share of its length. The token there is drawn; where one ends the next begins.
#
# **Target:** of `[0.1, 0.5, 0.15, 0.25]` with `p = 0.7` tokens 1 and 3 are kept. The line is 0.75 long:
# token 1 up to 0.5, then token 3. The number 0.6 points at 0.45, which is token 1; 0.7 points at 0.525,
# which is token 3.

# %%


# %% tags=["stub"]
def top_p(probabilities, p, number):
    """The token that `number` draws from the likeliest tokens, which reach p together.

    probabilities  list of floats, one for each token; they sum to 1
    p              above 0, at most 1
    number         from 0 to 1, without 1
    returns        an id: 0 to len(probabilities) - 1
    """
    raise NotImplementedError("sort ids by probability, keep until p is reached, then walk the line")


# %% [markdown] tags=["hint"]
# Two steps, and two orders: by probability to decide who stays, by id to draw. What may the sum of the
# kept ones be, at least and at most?

# %% [markdown] tags=["hint"]
# `sorted(ids, key=lambda i: -probabilities[i])` has the likeliest first and leaves equal ones in their
# order. Add ids to the kept ones as long as those that are there fall short of `p`. The one that reaches
# it belongs to them.

# %% [markdown] tags=["hint"]
# Then `at = number * sum(...)` over the kept ones. Walk along them in the order of their ids and add up
# their lengths: the first token whose end lies *beyond* `at` is the answer.

# %% tags=["solution"]
def top_p(probabilities, p, number):
    kept, total = [], 0.0
    for i in sorted(range(len(probabilities)), key=lambda i: -probabilities[i]):
        if total >= p:
            break
        kept.append(i)
        total += probabilities[i]
    at, end = number * sum(probabilities[i] for i in sorted(kept)), 0.0
    for i in sorted(kept):
        end += probabilities[i]
        if end > at:
            return i
    return max(kept)  # where rounding has eaten the last bit of the line


# %% tags=["check"]
from minimtnlg.course.check import expect

FOUR = [0.125, 0.5, 0.125, 0.25]  # sums are exact


def _drawn(student, probabilities, p, count=1000):
    """How often each token is drawn by `count` numbers, evenly spread from 0 to 1."""
    times = [0] * len(probabilities)
    for k in range(count):
        token = student(list(probabilities), p, (k + 0.5) / count)
        if not (isinstance(token, int) and 0 <= token < len(times)):
            expect(token, "an id, from 0 to the number of tokens less 1", "what is returned")
        times[token] += 1
    return times


def the_target(student):
    """The four tokens of the target"""
    given = [0.1, 0.5, 0.15, 0.25]
    for number, token in ((0.0, 1), (0.6, 1), (0.7, 3), (0.999, 3)):
        expect(student(list(given), 0.7, number), token, f"the token that {number} draws")


def the_one_that_reaches_p_stays(student):
    """p = 0.6 needs a second token, though the first has most of it"""
    expect(_drawn(student, FOUR, 0.6), [0, 667, 0, 333], "how often each is drawn of 1000",
           "0.5 falls short of 0.6, so the next one has to stay as well")  # fmt: skip


def no_more_than_needed(student):
    """p = 0.75 is reached exactly by two tokens"""
    expect(_drawn(student, FOUR, 0.75), [0, 667, 0, 333], "how often each is drawn of 1000",
           "two tokens have 0.75 together: a third is one too many")  # fmt: skip


def all_of_them(student):
    """p = 1 keeps every token, with its own probability"""
    expect(_drawn(student, FOUR, 1.0), [125, 500, 125, 250], "how often each is drawn of 1000")


def all_of_them_in_order(student):
    """The line is in the order of ids, not of probabilities"""
    for number, token in ((0.1, 0), (0.3, 1), (0.7, 2), (0.9, 3)):
        expect(student(list(FOUR), 1.0, number), token, f"the token that {number} draws",
               "who is kept depends on probabilities, the order on the line on ids")  # fmt: skip


def the_first_of_equals(student):
    """Of equally likely tokens those with smaller ids stay"""
    expect(_drawn(student, [0.25] * 4, 0.5), [500, 500, 0, 0], "how often each is drawn of 1000",
           "tokens 0 and 1 reach 0.5, and 2 and 3 are no likelier")  # fmt: skip


def where_one_ends_the_next_begins(student):
    """A number that points exactly at the end of a token draws the next one"""
    for number, token in ((0.125, 1), (0.625, 2), (0.75, 3)):
        expect(student(list(FOUR), 1.0, number), token, f"the token that {number} draws",
               "token 0 lies from 0 to 0.125 and does not have its end")  # fmt: skip


# %% tags=["hidden"]
def a_sure_model(student):
    """One token has nearly everything"""
    expect(_drawn(student, [0.01, 0.98, 0.01], 0.9, 100), [0, 100, 0], "how often each is drawn of 100")


def one_alone(student):
    """A vocabulary of one token, and a very small p"""
    expect(student([1.0], 1.0, 0.5), 0, "the only token")
    expect(_drawn(student, FOUR, 1e-9, 10), [0, 10, 0, 0], "how often each is drawn of 10",
           "at least one token stays, however small p is")  # fmt: skip


def what_can_not_come_never_comes(student):
    """Tokens of probability 0, at both ends of the line"""
    given = [0.0, 0.5, 0.0, 0.5, 0.0]
    for number, token in ((0.0, 1), (0.5, 3), (1 - 2**-53, 3)):
        expect(student(list(given), 1.0, number), token, f"the token that {number} draws",
               "a token of length 0 has no place on the line")  # fmt: skip


def as_the_package(student):
    """Random distributions, as the package cuts them and draws from them"""
    import torch

    from minimtnlg.evaluate.sampling import distribution, drawn

    g = torch.Generator().manual_seed(1)
    for p in (0.3, 0.9, 0.99):
        for logits in torch.randn(20, 50, generator=g, dtype=torch.float64) * 2:
            number = torch.rand((), generator=g, dtype=torch.float64)
            token = drawn(distribution(logits, top_p=p), number).item()
            given = logits.softmax(0).tolist()
            expect(student(given, p, number.item()), token, f"the token, with p = {p}")


# %% tags=["wrong"]
def _answer(probabilities, p, number, stays, order=sorted, scaled=True, beyond=True):
    kept, total = [], 0.0
    for i in sorted(range(len(probabilities)), key=lambda i: -probabilities[i]):
        if not stays(total, probabilities[i], p):
            break
        kept.append(i)
        total += probabilities[i]
    at, end = number * (sum(probabilities[i] for i in kept) if scaled else 1.0), 0.0
    for i in order(kept):
        end += probabilities[i]
        if end > at or (end == at and not beyond):
            return i
    return max(kept, default=0)


def stops_before_p(probabilities, p, number):
    """Caught by: the_one_that_reaches_p_stays. What is kept may not have more than p."""
    return _answer(probabilities, p, number, lambda total, one, p: total + one <= p)


def one_too_many(probabilities, p, number):
    """Caught by: no_more_than_needed. What is kept has to have more than p."""
    return _answer(probabilities, p, number, lambda total, one, p: total <= p)


def forgets_to_scale(probabilities, p, number):
    """Caught by: the_one_that_reaches_p_stays. The line is still 1 long; the end goes to the last."""
    return _answer(probabilities, p, number, lambda total, one, p: total < p, scaled=False)


def draws_by_probability(probabilities, p, number):
    """Caught by: all_of_them_in_order. The line is in the order in which tokens were kept."""
    return _answer(probabilities, p, number, lambda total, one, p: total < p, order=list)


def ends_belong_to_it(probabilities, p, number):
    """Caught by: where_one_ends_the_next_begins. A token has its end as well as its beginning."""
    return _answer(probabilities, p, number, lambda total, one, p: total < p, beyond=False)


def keeps_what_is_likely_by_itself(probabilities, p, number):
    """Caught by: the_target. A token stays if its own probability is above 1 - p."""
    kept = [i for i, x in enumerate(probabilities) if x > 1 - p]
    at, end = number * sum(probabilities[i] for i in kept), 0.0
    for i in kept:
        end += probabilities[i]
        if end > at:
            return i
    return 0


def takes_the_likeliest(probabilities, p, number):
    """Caught by: the_target. The likeliest token is the best choice."""
    return max(range(len(probabilities)), key=lambda i: probabilities[i])


def last_of_equals(probabilities, p, number):
    """Caught by: the_first_of_equals. Sorts upwards and walks back, so that equals turn around."""
    kept, total = [], 0.0
    for i in sorted(range(len(probabilities)), key=lambda i: probabilities[i])[::-1]:
        if total < p:
            kept.append(i)
            total += probabilities[i]
    at, end = number * total, 0.0
    for i in sorted(kept):
        end += probabilities[i]
        if end > at:
            return i
    return max(kept)


def cuts_ids_not_probabilities(probabilities, p, number):
    """Caught by: the_target. Walks along the ids until p is reached, and never sorts."""
    kept, total = [], 0.0
    for i, one in enumerate(probabilities):
        if total < p:
            kept.append(i)
            total += one
    at, end = number * total, 0.0
    for i in kept:
        end += probabilities[i]
        if end > at:
            return i
    return kept[-1]
