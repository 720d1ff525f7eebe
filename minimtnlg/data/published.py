"""The 15 data sets of MT-NLG: their size, their weight in the blend, how often each was read."""

from typing import NamedTuple


class Published(NamedTuple):
    """A row of the paper's Table 1 [S3], with the exact weight of the published scripts [S9].

    tokens   billions
    percent  weight as printed
    epochs   how often it was seen, as printed
    weight   share of all samples; the 15 add up to 1
    """

    tokens: float
    percent: float
    epochs: float
    weight: float


TOKENS = 275.5  # billions: 270 for training and 5.5 for validation, 98 to 2 (derived from [S3])
MTNLG = {
    "books3": Published(25.7, 14.3, 1.5, 0.14336),
    "openwebtext2": Published(14.8, 19.3, 3.6, 0.19336),
    "stack-exchange": Published(11.6, 5.7, 1.4, 0.05689),
    "pubmed-abstracts": Published(4.4, 2.9, 1.8, 0.02897),
    "wikipedia": Published(4.2, 4.8, 3.2, 0.04771),
    "gutenberg": Published(2.7, 0.9, 0.9, 0.00873),
    "bookcorpus2": Published(1.5, 1.0, 1.8, 0.01007),
    "nih-exporter": Published(0.3, 0.2, 1.8, 0.00208),
    "arxiv": Published(20.8, 1.4, 0.2, 0.01359),
    "github": Published(24.3, 1.6, 0.2, 0.01588),
    "pile-cc": Published(49.8, 9.4, 0.5, 0.09446),
    "cc-2020-50": Published(68.7, 13.0, 0.5, 0.13017),
    "cc-2021-04": Published(82.6, 15.7, 0.5, 0.15652),
    "realnews": Published(21.9, 9.0, 1.1, 0.08962),
    "cc-stories": Published(5.3, 0.9, 0.5, 0.00859),
}


def epochs(sizes, weights, tokens):
    """{source: how often it is read} when `tokens` tokens are drawn by weight.

        sizes    {source: tokens that it holds}, in the unit of `tokens`
        weights  {source: weight}, in any unit
    """
    total = sum(weights.values())
    return {name: tokens * weights[name] / total / sizes[name] for name in weights}
