# ---
# question: Of two random messages, how many bits agree?
# needs: []
# introduces:
#   bit: One yes or no, the smallest unit of information.
# proves: "Longer messages come closer to one half."
# minutes: 25
# seconds: 5
# ---

# %% [markdown]
# # Shared bits
#
# Two machines hold a message each. We ask how much of it is the same. This lesson is the
# pattern for all others; `docs/writing-lessons.md` explains its parts.

# %% [markdown]
# ## Question
#
# Two random messages have $n$ **bits** each. How many of them agree?

# %%
import random

import matplotlib.pyplot as plt

from minimtnlg.course.check import measured, predict
from minimtnlg.course.show import figure, show

# %% tags=["parameters"]
n: int = 1000  # bits in a message

# %% [markdown]
# ## Predict
#
# Type your guess in place of `None`, then run the cell. How many of 1000 bits agree?

# %%
predict("shared_bits", None)

# %% [markdown]
# And of a message ten times as long?

# %%
predict("shared_bits_of_longer", None, choices=["larger share", "same share", "smaller share"])

# %% [markdown]
# ## Trouble
#
# We draw both messages and count.


# %% tags=["predict"]
def agreeing(n, seed):
    """How many of n random bits agree with n others."""
    draw = random.Random(seed)
    return sum(draw.getrandbits(1) == draw.getrandbits(1) for _ in range(n))


measured("shared_bits", agreeing(n, seed=1), unit="bits", tell="Two bits agree in 2 of 4 cases.")

# %% [markdown]
# ## Idea
#
# Each pair agrees with probability $1/2$, so about $n/2$ of $n$ agree.

# %%
lengths = [10, 100, 1000, 10_000]
shares = [agreeing(k, seed=1) / k for k in lengths]
fig, ax = plt.subplots()
ax.plot(lengths, shares, label="measured")
ax.axhline(0.5, color="black", linestyle=":", label="one half")
ax.set(xlabel="bits", ylabel="share that agrees", title="The share settles at one half")
ax.set_xscale("log")
ax.legend()
figure(fig, alt="Share of agreeing bits for 10 to 10000 bits: it settles at one half.")

# %% [markdown]
# ## Code
#
# The package has no such function. It does have the one that keeps your guess:

# %%
show(predict)

# %% [markdown]
# ## You might think
#
# that messages of different machines share nothing.

# %%
assert agreeing(n, seed=2) > 0

# %% [markdown]
# ## Proof
#
# Longer messages come closer to one half.

# %% tags=["predict"]
assert abs(shares[-1] - 0.5) < 0.02
measured("shared_bits_of_longer", "same share")

# %% [markdown]
# ## Cost
#
# One comparison a bit.

# %% [markdown] tags=["deeper"]
# ### Deeper: the spread
#
# The count spreads by $\sqrt{n}/2$.

# %% tags=["deeper"]
spread = n**0.5 / 2
print(f"{spread:.1f} bits")

# %% [markdown]
# ## MT-NLG
#
# Its weights are numbers of 16 bits [S3].

# %% [markdown]
# ## Check yourself
#
# 1. Why one half?
#
# <details><summary>Answer</summary>
#
# Two bits have four combinations, and they agree in two of them.
#
# </details>
#
# 2. How many of 8 bits agree on average?
#
# <details><summary>Answer</summary>
#
# Four.
#
# </details>
#
# 3. Can all of them agree?
#
# <details><summary>Answer</summary>
#
# Yes, with probability $2^{-n}$.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Now count with your own code.
