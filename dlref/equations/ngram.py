"""An n-gram model with interpolated Kneser-Ney smoothing, from dictionaries: Chen & Goodman 1999.

An n-gram is a tuple of n words, the newest last, and a text a list of words.
"""

Counts = dict[tuple[int, ...], int]


def occurrences(text: list[int], length: int) -> Counts:
    """c(w_1 … w_n): how often each n-gram of this length occurs in a text."""
    counts: Counts = {}
    for end in range(length, len(text) + 1):
        gram = tuple(text[end - length : end])
        counts[gram] = counts.get(gram, 0) + 1
    return counts


def continuations(text: list[int], length: int) -> Counts:
    """N_1+(• w_1 … w_n): after how many different words each n-gram of this length occurs (Kneser & Ney 1995)."""
    counts: Counts = {}
    for gram in occurrences(text, length + 1):
        counts[gram[1:]] = counts.get(gram[1:], 0) + 1
    return counts


def discounts(counts: Counts, kind: str) -> list[float]:
    """D for counts of 1, 2, and 3 or more, of the n-grams of one length, n_k of which are counted k times.

    `one`: Y = n_1 / (n_1 + 2 n_2) for all; `three`: D_1 = 1 - 2 Y n_2 / n_1, D_2 = 2 - 3 Y n_3 / n_2, D_3+ = 3 - 4 Y n_4 / n_3,
    the modified smoothing. If an n_k that they divide by, or n_2, is 0, or a D is not positive: 0.5, or 0.5, 1 and 1.5.
    """
    n = [list(counts.values()).count(k) for k in range(5)]
    fallback = [0.5, 0.5, 0.5] if kind == "one" else [0.5, 1.0, 1.5]
    if n[1] == 0 or n[2] == 0 or (n[3] == 0 and kind == "three"):
        return fallback
    y = n[1] / (n[1] + 2 * n[2])
    if kind == "one":
        return [y, y, y]
    found = [1 - 2 * y * n[2] / n[1], 2 - 3 * y * n[3] / n[2], 3 - 4 * y * n[4] / n[3]]
    return found if min(found) > 0 else fallback


def kneser_ney(word: int, context: tuple[int, ...], orders: list[tuple[Counts, list[float]]], vocabulary: int) -> float:
    """P(w | h) = (c(h w) - D(c(h w))) / Σ_v c(h v) + γ(h) P(w | h'), where h' is h without its oldest word.

    γ(h) = (D_1 N_1(h •) + D_2 N_2(h •) + D_3+ N_3+(h •)) / Σ_v c(h v), with N_k(h •) the number of words that c counts k
    times after h. Without a context P(w | h') is 1 / V, and after an unknown context P(w | h) is P(w | h').

    `orders` holds counts and discounts of n-grams of 1, 2 … words: occurrences of the longest, continuations of the others.
    """
    counts, (d1, d2, d3) = orders[len(context)]
    shorter = kneser_ney(word, context[1:], orders, vocabulary) if context else 1 / vocabulary
    following = [count for gram, count in counts.items() if gram[:-1] == context]
    if not following:
        return shorter
    more = [count for count in following if count > 2]
    gamma = (d1 * following.count(1) + d2 * following.count(2) + d3 * len(more)) / sum(following)
    count = counts.get((*context, word), 0)
    discount = 0.0 if count == 0 else d1 if count == 1 else d2 if count == 2 else d3
    return (count - discount) / sum(following) + gamma * shorter
