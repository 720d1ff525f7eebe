"""What a sentence of HANS says, by a grammar and a chart parser: knows the words, no template.

`parses` gives every tree of a sentence; `facts` what a tree asserts. A premise entails a hypothesis
if it asserts all facts of it.
"""

import functools

import nltk

from minimtnlg.evaluate.hans import WORDS

RULES = """
S -> C | Surely ',' C | Perhaps C | Because C ',' C | If C ',' C | Before C C
S -> C ',' 'and' C | C ',' 'or' C
C -> NP VP | One 'was' Passive | Many 'were' Passive
VP -> Slept | Praised NP | Helped | Helped NP | Helped Place | Ate | Ate 'the' Thing
VP -> Knew 'that' C | Thought 'that' C | Believed C | Believed NP
Passive -> Praised 'by' NP
NP -> One | Many
One -> 'the' Person | 'the' Person Rest
Many -> 'the' People | 'the' People Rest | People | Tired People | NP 'and' NP
Rest -> Near NP | 'that' VP | 'that' NP Praised | Helped Place
"""
CLASSES = {
    "Slept": "slept", "Praised": "praised", "Helped": "helped", "Knew": "knew", "Near": "near",
    "Thought": "thought", "Believed": "believed", "Tired": "tired", "Place": "in_the_park",
    "Surely": "surely", "Perhaps": "perhaps", "Because": "because", "If": "if", "Before": "before",
    "Person": "person",
}  # fmt: skip
SEVERAL = [w for kind in ("near", "surely", "in_the_park") for w in WORDS[kind] if " " in w]


@functools.cache
def parser():
    words = {name: WORDS[kind] for name, kind in CLASSES.items()}
    words["People"] = [person + "s" for person in WORDS["person"]]
    words["Ate"] = [verb for verb, _ in WORDS["ate"]]
    words["Thing"] = [thing for _, thing in WORDS["ate"]]
    lexicon = [
        f"{name} -> '{word.replace(' ', '_')}'"
        for name, kind in words.items()
        for word in dict.fromkeys(kind)
    ]
    return nltk.ChartParser(nltk.CFG.fromstring(RULES + "\n".join(lexicon)))


def tokens(sentence):
    """Its words in lower case, a place or preposition of several words as one."""
    assert sentence[0].isupper() and sentence[-1] == "." and "  " not in sentence
    text = sentence[0].lower() + sentence[1:-1].replace(",", " ,")
    for several in SEVERAL:
        text = text.replace(several, several.replace(" ", "_"))
    return text.split()


def parses(sentence):
    found = list(parser().parse(tokens(sentence)))
    assert found, f"not a sentence of the grammar: {sentence}"
    return found


def clauses(tree):
    """The words of every clause in a tree."""
    return [clause.leaves() for clause in tree.subtrees(lambda t: t.label() == "C")]


def facts(tree):
    """{(who, what) or (who, what, whom)} that an S, or a clause, asserts."""
    if tree.label() == "C":
        return _clause(tree)
    words = [part if isinstance(part, str) else part.label() for part in tree]
    if {"Perhaps", "If", "or"} & set(words):
        return set()
    return set().union(*(_clause(part) for part in tree if not isinstance(part, str) and
                         part.label() == "C"))  # fmt: skip


def _clause(tree):
    who, said = _persons(tree[0])
    if tree[1] == "was" or tree[1] == "were":
        doers, more = _persons(tree[2][2])
        return said | more | {(doer, tree[2][0][0], w) for doer in doers for w in who}
    return said | _predicate(tree[1], who)


def _predicate(tree, who):
    verb, rest = tree[0][0], tree[1:]
    kinds = [part if isinstance(part, str) else part.label() for part in tree]
    if kinds[-1] == "C":
        return _clause(rest[-1]) if kinds[0] == "Knew" else set()
    if kinds[-1] == "NP":
        whom, said = _persons(rest[0])
        return said | {(w, verb, x) for w in who for x in whom}
    found = {(w, verb) for w in who}  # also of who ate something
    if len(rest):
        found |= {(w, verb, rest[-1][0]) for w in who}
    return found


def _persons(tree):
    """(the persons of a noun phrase, what it says of them beside)."""
    if tree.label() == "NP" and len(tree) == 1:
        return _persons(tree[0])
    kinds = [part if isinstance(part, str) else part.label() for part in tree]
    if "and" in kinds:
        (first, said), (second, more) = _persons(tree[0]), _persons(tree[2])
        return first + second, said | more
    (person,) = [part[0] for part in tree if not isinstance(part, str) and
                 part.label() in ("Person", "People")]  # fmt: skip
    said = set()
    if kinds[-1] == "Rest":
        rest = tree[-1]
        if rest[0] == "that" and len(rest) == 2:
            said = _predicate(rest[1], [person])
        elif rest[0] == "that":
            others, said = _persons(rest[1])
            said = said | {(other, rest[2][0], person) for other in others}
        elif rest[0].label() == "Near":
            said = _persons(rest[1])[1]
        else:
            said = {("somebody", rest[0][0], person)}
    return [person], said
