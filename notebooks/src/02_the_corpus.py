# ---
# question: What must happen to a pile of web pages before a model may read it, and how would one
#   know that it did?
# needs: []
# introduces:
#   Jaccard similarity: "What two sets share, divided by what they hold together: 1 for equal sets,
#     0 for sets without a common element."
#   MinHash: "A short signature of a set: for each of many hash functions the smallest value that it
#     takes on the set. Two sets agree in each place with a probability equal to their similarity."
#   decontamination: "Cutting out of training text what the evaluation will ask, so that a test
#     measures what a model can do and not what it remembers."
# proves: "Planted duplicates, leaks and rubbish go, each at the step that is for it, and nothing
#   else does."
# minutes: 40
# seconds: 30
# ---

# %% [markdown]
# # The corpus
#
# MT-NLG's text came from 15 data sets, 339 billion tokens together [S3]. Two of them were made for
# it, from the raw pages of Common Crawl.
#
# This lesson shows each step on a page or a text, and then what all of them do to eleven thousand
# documents. Most of the code is about one question that sounds simple: have we seen this text
# before?

# %% [markdown]
# ## Question
#
# What must happen to a pile of web pages before a model may read it, and how would one know that it
# did?
#
# The pile has everything in it: menus, broken letters, other languages, advertisements, the same
# page ten times with another date, and somewhere the very texts of the test that the model will be
# put to.

# %%
import json
import os
import pydoc
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from datasketch import MinHash

import minimtnlg
from minimtnlg.course.check import measured, predict
from minimtnlg.course.plots import COLOURS
from minimtnlg.course.show import figure, show
from minimtnlg.data import decontaminate, minhash, quality, recipe
from minimtnlg.data.curate import curate
from minimtnlg.data.dedup import duplicates
from minimtnlg.data.extract import extracted
from minimtnlg.data.language import identified
from minimtnlg.data.published import MTNLG, TOKENS, epochs
from minimtnlg.data.records import SUFFIX, Document, reading
from minimtnlg.data.repair import mended
from minimtnlg.data.sources import documents, task_records

RECORDED = Path(minimtnlg.__file__).parents[1] / "notebooks" / "recorded"

# %% tags=["parameters"]
pairs: int = 400  # planted near-duplicates
seed: int = 1  # of all that is drawn here

# %% [markdown]
# ## Predict
#
# Put your guesses in place of `None` and run the cell.
#
# 1. Python brings one page of HTML, the help of its editor IDLE. The extraction keeps its running
#    text. What percentage of the characters of the file is that?
# 2. A classifier gives a page the score 0: surely not good prose. In what percentage of such cases
#    did MT-NLG keep the page all the same?
# 3. Two documents share 80 % of what they hold together. They are looked up in 20 tables of
#    buckets, as MT-NLG did it, to find each other. In what percentage of cases do they?
# 4. We put 11 033 real documents through all the steps: pages, mails, articles, books, code. How
#    many documents come out?

# %%
predict("text_of_a_page", None)
predict("kept_at_score_zero", None)
predict("found_at_80_percent", None)
predict("documents_that_are_left", None)

# %% [markdown]
# ## Trouble
#
# Here is the page, as a crawler stores it.

# %%
page = Path(os.__file__).parent / "idlelib" / "help.html"
if page.is_file():
    html = page.read_text(encoding="utf-8")
else:  # some systems leave IDLE out; pydoc writes a page as well
    html = pydoc.html.page("json", pydoc.html.docmodule(json))
middle = len(html) // 2
print(html[:300])
print("...")
print(html[middle : middle + 300])

# %% [markdown]
# A model that reads this learns to write HTML. And Python comes with a cheap test for pages that we
# have seen before, a set. It fails at the first changed word.

# %%
articles = [d.text for d in documents("wikipedia")][:60]
changed = [text.replace(" the ", " this ", 1) for text in articles]
together = articles + changed

print(f"{len(together)} texts, {len(set(together))} of them different, says the set")
assert len(set(together)) == len(together)

# %% [markdown]
# Each article stands there twice, and the set sees no repetition. On the web that is the ordinary
# case: the same text with another date, name or menu. A model that reads a text ten times has read
# nine other texts less.

# %% [markdown]
# ## Idea
#
# **A text as a set.** Take all runs of five characters of a text [S10]. Two texts that differ in a
# word differ in some runs, and share the others. How alike they are is the **Jaccard similarity** of
# the two sets,
#
# $$s = \frac{|A \cap B|}{|A \cup B|}.$$
#
# By hand, with runs of two characters: `banana` has the set {ba, an, na}, `bandana` has {ba, an,
# nd, da, na}. They share 3 and hold 5 together, so $s = 3/5$.
#
# **A set as a signature.** Comparing all pairs of a billion documents is out of the question. But
# imagine that we shuffle all runs that exist into a random order, and note for each text which of
# its runs comes first. Two texts note the same run exactly if the first run of all that they hold
# together is one that they share. That happens with probability $s$.
#
# A hash function is such a shuffle: the run with the smallest hash comes first. With 260 hash
# functions we have 260 numbers, the **MinHash** signature. The share of places in which two
# signatures agree estimates $s$.

# %%
left, right = {"ba", "an", "na"}, {"ba", "an", "nd", "da", "na"}
order = np.random.default_rng(seed)
runs = sorted(left | right)
hits = 0
around = dict(boxstyle="square,pad=0.1", fc="white", ec="none")
fig, ax = plt.subplots(figsize=(8, 3.6))
for row in range(6):
    shuffled = [runs[i] for i in order.permutation(len(runs))]
    first = [next(run for run in shuffled if run in text) for text in (left, right)]
    hits += first[0] == first[1]
    for x, run in enumerate(shuffled):
        both = run in left and run in right
        look = dict(fc=COLOURS["sky"]) if both else dict(fc="white", hatch="///", ec="0.7")
        ax.add_patch(plt.Rectangle((x, -row), 0.92, 0.8, lw=0, **look))
        ax.text(x + 0.46, 0.4 - row, run, ha="center", va="center", bbox=around)
    verdict = "the same" if first[0] == first[1] else "different"
    ax.text(5.3, 0.4 - row, f"banana: {first[0]}   bandana: {first[1]}   {verdict}", va="center")
ax.set(xlim=(0, 11), ylim=(-5.2, 1), title="Six shuffles: the first run of each text")
ax.text(5.3, -5.75, "plain: both texts have it; hatched: one has it alone", ha="center", va="top")
ax.axis("off")
figure(
    fig,
    alt="Six rows show the five runs of two characters in random order; nd and da are hatched, as "
    "bandana has them alone. Where the first of the row "
    f"is one that both words have, both note the same run; that is so in {hits} of the 6 rows.",
)

# %% [markdown]
# **A signature as buckets.** Comparing signatures in pairs is still too much. So cut the 260 numbers
# into 20 bands of 13. Each band is a key to a table; texts with the same 13 numbers meet in a
# bucket. One band agrees with probability $s^{13}$, so at least one of 20 does with
#
# $$P(s) = 1 - (1 - s^{13})^{20}.$$
#
# The chance rises steeply near $s = 0.8$. Only those who met are compared, and then exactly [S3].
#
# **Who stays.** In each bucket one text is drawn and compared with all the others. Those as alike as
# 0.8 are its duplicates and leave the bucket. Then the next is drawn, up to ten times. So a bucket
# of a million costs at most ten million comparisons; all its pairs are
# $10^6 \cdot 10^6 / 2 = 500 \cdot 10^9$.
#
# Duplicates of duplicates belong together. Draw every text as a point and every pair of duplicates
# as a line: what hangs together is a connected component. Of each component one text stays, that of
# the best source.

# %% [markdown]
# ## Code
#
# ### From a page to a text
#
# The paper used jusText. It judges a paragraph by its length, its links and its share of function
# words.

# %% tags=["predict"]
as_page = Document(html, "python", "help.html", meta={"kind": "page"})
(as_text,) = extracted(as_page).documents
share = len(as_text.text) / len(html)
print(as_text.text[:400])
measured(
    "text_of_a_page",
    100 * share,
    unit="%",
    tell="Tags, menus and links went, and with them short paragraphs, which look like menus.",
)

# %% [markdown]
# ### Language and repair
#
# Common Crawl has every language. A small classifier says which one a text is in, and how sure it
# is. And some texts were decoded wrongly on their way: their letters are broken in a way that can
# be undone.

# %%
for text in (
    "All human beings are born free and equal in dignity and rights.",
    "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "7f:3a -- 404 -- x86_64 ## 12:30 >> /dev/null",
):
    code, sure = identified(text)
    print(f"{code}  {sure:.2f}  {text}")

assert sure < 0.5
broken = "The cafÃ© serves crÃ¨me brÃ»lÃ©e &amp; tea"
print(f"\n{broken}\n{mended(broken)}")
assert mended(broken) == "The café serves crème brûlée & tea"

# %% [markdown]
# The last line has no language. The classifier must name one all the same, but says that it is not
# sure. That is what the threshold is for, ours is 0.5. Texts below 512 characters go as well [S3].

# %% [markdown]
# ### Good prose, and a rule that leaves some to chance
#
# A classifier learned to tell edited prose from raw pages, by words and pairs of words. A page of
# score $p$ was kept if a random number was above $1 - p$. The number comes from a Pareto
# distribution that starts at 0, with $\alpha = 3$ [alpha: S3, rule: S20]. The chance of that is
#
# $$P(\text{kept}) = (2 - p)^{-3}.$$

# %% tags=["predict"]
measured(
    "kept_at_score_zero",
    100 * float(quality.kept_share(0.0)),
    unit="%",
    tell="One in eight. The classifier knows what it was shown; other good text may look different.",
)
assert quality.kept_share(0.0) == 1 / 8

# %% [markdown]
# Did the rule do that to real documents? We ran the whole pipeline over the default mixture with
# `minimtnlg data curate --out corpora/default`, which takes two minutes, and kept its report. Judged
# are the two sources that hold pages: mails, and a handbook in 26 languages.

# %%
report = json.loads((RECORDED / "02_report.json").read_text(encoding="utf-8"))
judged = report["quality"]["counts"]
tenths = [f"{i / 10}" for i in range(10)]
seen = np.array([judged.get(f"score {tenth}", 0) for tenth in tenths])
kept = np.array([judged.get(f"kept score {tenth}", 0) for tenth in tenths])
learned = report["quality"]["classifier"]

x = np.arange(10) / 10 + 0.05
fig, (above, below) = plt.subplots(2, 1, figsize=(7, 5.4), sharex=True)
above.bar(x, seen, width=0.08, color=COLOURS["sky"], label="judged")
above.bar(x, kept, width=0.04, color="black", label="kept")
above.set(yscale="log", ylabel="documents", title="Most mails and handbook pages score low")
above.legend()
fine = np.linspace(0, 1, 101)
below.plot(fine, quality.kept_share(fine), label="$(2 - p)^{-3}$", marker="")
share = kept / seen
spread = 2 * np.sqrt(quality.kept_share(x) * (1 - quality.kept_share(x)) / seen)
spread = np.minimum([spread, spread], [share, 1 - share])  # a share ends at 0 and 1
below.errorbar(x, share, spread, fmt="o", color="black", label="kept of the judged, with 2 sigma")
below.set(xlabel="score p", ylabel="share that is kept", ylim=(0, 1.1))
below.set_title("The rule keeps an eighth of the worst and nearly all of the best")
below.legend()
figure(
    fig,
    alt=f"Above, documents by score on a logarithmic scale: {seen[0]} of {seen.sum()} score below "
    f"0.1. Below, the share that was kept rises from {kept[0] / seen[0]:.2f} to "
    f"{kept[-1] / seen[-1]:.2f} along the curve of the formula.",
)
print(f"held-out accuracy {learned['accuracy']:.3f} +- {learned['standard error']:.3f}, "
      f"kept {kept.sum()} of {seen.sum()}, and {kept[0]} of these score below 0.1")  # fmt: skip
assert kept[0] > kept.sum() / 2

# %% [markdown]
# Most of what stays scores below 0.1 too. There is so much of it that an eighth of it outweighs all
# the rest. MT-NLG's pages were better than mails, but the rule is the same.

# %% [markdown]
# ### Have we seen it before?
#
# Now the hashing by hand: runs of five characters as numbers, the similarity of two sets, and a
# signature.


# %%
def runs_of(text, length=5):
    """The set of all runs of `length` characters, each as a number of 32 bits."""
    text = " ".join(text.lower().split())
    return {hash_of(text[i : i + length]) for i in range(len(text) - length + 1)}


def hash_of(run):
    """32 bits of a string; the same on every machine, which Python's own hash is not."""
    number = 0
    for character in run:
        number = (number * 0x9E3779B97F4A7C15 + ord(character) + 1) % 2**64
    return (number ^ number >> 29) * 0x9E3779B97F4A7C15 % 2**64 >> 32


def similarity(a, b):
    """Jaccard similarity of two sets."""
    return len(a & b) / len(a | b)


a_many, b_many = (int_pair.tolist() for int_pair in minhash.functions(260))


def signature(numbers):
    """The smallest value of each of 260 hash functions (a x + b mod 2^64) >> 32."""
    return [
        min((a * x + b) % 2**64 >> 32 for x in numbers) for a, b in zip(a_many, b_many, strict=True)
    ]


one, two = articles[0][:900], articles[0][:800] + articles[1][:100]
A, B = runs_of(one), runs_of(two)
agree = np.mean(np.array(signature(A)) == np.array(signature(B)))
print(f"{len(A)} and {len(B)} runs, similarity {similarity(A, B):.3f}, "
      f"signatures agree in {agree:.3f} of 260 places")  # fmt: skip

# %% [markdown]
# The package does the same with arrays. Both must agree number for number, and the estimate must be
# as good as that of `datasketch`, the library that the paper used.

# %%
show(minhash.signature)

# %%
for text in (one, two):
    by_hand, theirs = runs_of(text), minhash.shingles(text)
    assert sorted(by_hand) == theirs.tolist()
    assert signature(by_hand) == minhash.signature(theirs, minhash.functions()).tolist()


def library_signature(numbers):
    """datasketch's MinHash of the same set."""
    made = MinHash(num_perm=260, hashfunc=int)
    made.update_batch(sorted(numbers))
    return made


estimate = library_signature(A).jaccard(library_signature(B))
spread = np.sqrt(similarity(A, B) * (1 - similarity(A, B)) / 260)
print(f"exact {similarity(A, B):.3f}, ours {agree:.3f}, datasketch {estimate:.3f}; "
      f"one standard deviation is {spread:.3f}")  # fmt: skip
assert max(abs(agree - similarity(A, B)), abs(estimate - similarity(A, B))) < 5 * spread

# %% [markdown]
# ## You might think
#
# *Documents above 0.8 are found and those below are not. The threshold is a sharp cut.*
#
# We plant near-duplicates: pieces of articles in which some words are replaced, few or many. For
# each pair we know the exact similarity, and look whether the two meet in a bucket.

# %% tags=["predict"]
draw = np.random.default_rng(seed)
functions = minhash.functions()


def spoiled(text, share):
    """The text with that share of its words replaced by others."""
    words = text.split()
    for i in np.flatnonzero(draw.random(len(words)) < share):
        words[i] = f"{draw.integers(10**6)}"
    return " ".join(words)


found = []
for number in range(pairs):
    text = articles[number % len(articles)][1000:3000]
    sets = [minhash.shingles(t) for t in (text, spoiled(text, draw.uniform(0, 0.14)))]
    keys = [minhash.bands(minhash.signature(numbers, functions)) for numbers in sets]
    found.append((minhash.jaccard(*sets), bool(np.any(keys[0] == keys[1]))))
exact, met = np.array([pair for pair in found if pair[0] < 1]).T  # some were not changed at all

edges = np.linspace(0.5, 1, 11)
bins = np.digitize(exact, edges) - 1
fig, ax = plt.subplots()
fine = np.linspace(0.4, 1, 200)
ax.plot(fine, minhash.probability(fine), marker="", label="$1 - (1 - s^{13})^{20}$")
for i in range(10):
    inside = bins == i
    if inside.sum() > 4:
        p, n = met[inside].mean(), inside.sum()
        q = minhash.probability(exact[inside]).mean()
        bar = np.minimum(2 * np.sqrt(q * (1 - q) / n), [[p], [1 - p]])
        ax.errorbar(exact[inside].mean(), p, bar, fmt="o", color="black")
ax.axvline(0.8, color="0.5", ls=":", label="threshold 0.8")
ax.plot([], [], "o", color="black", label=f"{len(exact)} planted pairs, with 2 sigma")
ax.set(xlabel="similarity s", ylabel="share that meets in a bucket", title="An S, not a step")
ax.legend()
figure(
    fig,
    alt="An S-shaped curve from 0 below s = 0.6 to 1 above s = 0.9, with measured points on it; at "
    f"s = 0.8 it is {minhash.probability(0.8):.2f}.",
)
for s in (0.7, 0.8, 0.9):
    print(f"s = {s}: two documents meet with probability {minhash.probability(s):.3f}")
measured(
    "found_at_80_percent",
    100 * float(minhash.probability(0.8)),
    unit="%",
    tell="That is the formula's; the points of the figure are what was measured.",
)
expected = minhash.probability(exact)
assert abs(met.sum() - expected.sum()) < 5 * np.sqrt((expected * (1 - expected)).sum())

# %% [markdown]
# It is an S. One pair in six of similarity 0.7 meets, and one in three of similarity 0.8 does not.
# The exact comparison in the bucket sends the first away. Nothing brings back the second; a third
# document, alike to both, may still join them.

# %%
assert 1 / 7 < minhash.probability(0.7) < 1 / 5 and 0.30 < 1 - minhash.probability(0.8) < 0.34

# %% [markdown]
# ## Proof
#
# First our trouble of the beginning, the articles with one changed word. Does the package find the
# pairs, and only them?

# %%
stays = duplicates(together)
print(f"{len(together)} texts, {len(set(stays.tolist()))} stay")
assert all(stays[i] == stays[i + len(articles)] for i in range(len(articles)))
assert len(set(stays.tolist())) == len(articles)

# %% [markdown]
# Next, a leak. BoolQ asks questions about passages of Wikipedia, and our corpus holds Wikipedia. We
# look for all runs of 13 words of BoolQ, and cut out what we find, with 200 characters on each side
# [S3].

# %%
boolq = list(decontaminate.texts_of(task_records("boolq")))
grams = decontaminate.Index.build(boolq)
grams.save(Path("grams.npz"))
print(f"{len(boolq):,} texts of BoolQ give {len(grams.grams):,} runs of words")

for document in documents("wikipedia"):
    matches = grams.found_in(document.text)
    if matches:
        outcome = decontaminate.cut(document, index=Path("grams.npz"))
        first, last = min(m[1] for m in matches), max(m[2] for m in matches)
        pieces = [len(piece.text) for piece in outcome.documents]
        print(f"\n{document.id}: {len(document.text):,} characters become pieces of {pieces}")
        print(f"   in BoolQ: {document.text[first : min(last, first + 150)]} ...")
        assert not any(grams.found_in(piece.text) for piece in outcome.documents)

# %% [markdown]
# Nobody planted that. No question leaked, but passages did, the texts that the questions are about.
# A model trained on these articles would have read them before its test. Whether that raises its
# score is an experiment of a later lesson: training with the passages, without them, and after
# their removal.
#
# One thing is let through. A run of words that the training text holds more than ten times is taken
# for an expression, not for a leak, and stays [S10].
#
# Last, everything at once, on a small pile in which we know what is what. Each document says by its
# name what should become of it. There are no pages among them, so extraction and classifier have
# nothing to do.

# %%
good = [text[:2500] for text in articles[:40]]
pile = [{"id": f"keep {i}", "text": text} for i, text in enumerate(good)]
pile += [{"id": f"near {i}", "text": spoiled(text, 0.005)} for i, text in enumerate(good[:5])]
pile += [{"id": f"same {i}", "text": text} for i, text in enumerate(good[5:8])]
pile += [{"id": "short", "text": good[0][:300]}]
pile += [{"id": "german", "text": "Der Hund und die Katze schlafen im Garten unter dem Baum. " * 20}]
secret = "which of the seven bridges of the old river town was built by the blind mason"
pile += [{"id": "leak", "text": f"{articles[50][:1500]} {secret}. {articles[51][:1500]}"}]
Path("pile.jsonl").write_text("\n".join(map(json.dumps, pile)))
Path("test.jsonl").write_text(json.dumps({"question": secret}))

chosen = recipe.load(None, ['decontaminate.tasks=["test.jsonl"]', "index.vocab=300"])
result = curate("out", ["pile.jsonl"], chosen, processes=1, progress=False)
for step, told in result.items():
    came, left_over = told["documents"]
    print(f"{step:14} {came:3} -> {left_over:3}   {told['removed'] or ''}")

ids = [d.id for path in Path("out/steps/7-shuffle").glob(f"*{SUFFIX}") for d in reading(path)]
names = Counter(name.split()[0].split("#")[0] for name in ids)
assert names["keep"] + names["near"] + names["same"] == 40 and names["leak"] == 2
assert not names["short"] and not names["german"]

# %% [markdown]
# Of each pair of twins one is left. The leak is two clean pieces, which is why a step can let more
# documents out than came in. The rest is gone.

# %% [markdown]
# ## Cost
#
# Back to the recorded run. What did each step take, and what did it cost?

# %% tags=["predict"]
seconds = json.loads((RECORDED / "02_seconds.json").read_text(encoding="utf-8"))
for step, told in report.items():
    came, left_over = told["documents"]
    why = ", ".join(f"{reason}: {count}" for reason, count in told["removed"].items())
    print(f"{step:14}{came:7} ->{left_over:7}   {seconds[step]:5.1f} s   {why}")
came, left_over = report["read"]["documents"][0], report["shuffle"]["documents"][1]
assert came == 11_033
measured(
    "documents_that_are_left",
    left_over,
    unit="documents",
    tell=f"Of {came:,}; but {100 * report['shuffle']['bytes'][1] / report['extract']['bytes'][1]:.0f} % "
    "of the bytes of text: books and articles are long, mails are short.",
)

# %%
steps = list(report)
fig, ax = plt.subplots(figsize=(8, 3.8))
sources = list(report["read"]["sources"])
bottom = np.zeros(len(steps))
large = sorted(sources, key=lambda source: -report["read"]["sources"][source]["out"][0])[:3]
looks = zip(large, ("sky", "red", "pink"), ("", "///", "..."), strict=True)
looks = {source: dict(color=COLOURS[colour], hatch=hatch) for source, colour, hatch in looks}
rest = [source for source in sources if source not in large]
looks |= {rest[0]: dict(color="black", label=f"{len(rest)} others")}
for source in [*rest, *large]:
    height = [report[step]["sources"].get(source, {"out": [0]})["out"][0] for step in steps]
    look = dict(label=source if source in large else None, color="black", edgecolor="white", lw=0)
    ax.bar(steps, height, bottom=bottom, **look | looks.get(source, {}))
    bottom += height
ax.set(ylabel="documents", title="What each step let go on")
plt.setp(ax.get_xticklabels(), rotation=30, ha="right")
ax.legend()
figure(
    fig,
    alt=f"Stacked bars of documents after each step, from {came} after reading to {left_over} at "
    "the end; the handbook shrinks most at language and quality, mail at repair and quality.",
)

# %% [markdown]
# The handbook is there in 26 languages, and yet half of it passed as English. That is no error:
# translators had not finished, and a page that none has translated yet stands in English in the
# folder of each language. So the next steps see the same page many times.

# %%
handbook = {step: report[step]["sources"]["handbook"]["out"][0] for step in steps[:7]}
print(handbook)
assert handbook["language"] > 2 * handbook["read"] / 26

# %% [markdown]
# ## MT-NLG
#
# The paper's numbers [S3]: a quarter of the documents of two snapshots of Common Crawl were English
# and had a text. The classifier was right in 90.3 % of the held-out cases, and the Pareto rule
# removed some 80 % of the text. Of 319 781 622 documents of all 15 data sets, 35 988 were split
# because of the evaluation sets, and 1 109 removed.
#
# What is left is not read in proportion to its size. Each data set has a weight, and the good ones
# are seen more often.

# %%
sizes = {name: row.tokens for name, row in MTNLG.items()}
times = epochs(sizes, {name: row.weight for name, row in MTNLG.items()}, TOKENS)
print(f"{'data set':18}{'billion tokens':>15}{'weight %':>10}{'epochs':>8}{'printed':>9}")
for name, row in sorted(MTNLG.items(), key=lambda item: -times[item[0]]):
    print(f"{name:18}{row.tokens:15.1f}{100 * row.weight:10.1f}{times[name]:8.2f}{row.epochs:9.1f}")
    assert abs(times[name] - row.epochs) < 0.12

# %% [markdown]
# OpenWebText2 is read 3.6 times. Of GitHub only a fifth is read, of the two snapshots half. The
# authors chose the weights by quality, not by size [S3]. How they become batches is the next lesson.

# %% [markdown]
# ## Check yourself
#
# 1. jusText must know the language of a page, for its list of function words, so it is guessed
#    before the extraction. Why is it judged once more after it?
#
# <details><summary>Answer</summary>
#
# Menus and footers may be in another language than the text, or in none. What is judged must be
# what will be read.
#
# </details>
#
# 2. A band has 13 numbers. What would 5 bands of 52 numbers find, with the same 260 hash functions?
#
# <details><summary>Answer</summary>
#
# Almost only equal texts. $1 - (1 - 0.8^{52})^5 = 0.00005$, and where $s$ is 0.95,
# $1 - (1 - 0.95^{52})^5 = 0.3$.
#
# </details>
#
# 3. Why is the score compared with a random number, and not with a threshold?
#
# <details><summary>Answer</summary>
#
# The classifier has seen a few kinds of good text: articles, speeches, novels, facts about
# countries. A threshold would leave only what looks like them; the rule keeps an eighth even of what
# it likes least.
#
# </details>
#
# 4. A run of 13 words of the test stands in 50 documents. Is it cut out of all of them?
#
# <details><summary>Answer</summary>
#
# No: above ten times it counts as an expression, such as a licence, that the test merely quotes. A
# leak that was copied often enough would hide behind this rule, unless duplicates go first.
#
# </details>

# %% [markdown]
# ## Exercises
#
# Write the search for near-duplicates, and cut a leak out of a document with your own code.
