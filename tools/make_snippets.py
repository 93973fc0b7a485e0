#!/usr/bin/env python3
"""Make the bundled tasks `sentiment` and `rating` from VADER's ground-truth snippets.

    tools/make_snippets.py SOURCE assets/snippets    write the six files
    tools/make_snippets.py --check assets/snippets   verify balance and that no split repeats another

SOURCE holds `*_GroundTruth.txt` as in vaderSentiment 3.3.2: id, mean rating, text; no header.
Standard library only. Nothing is random: order comes from SHA-256 of the texts, so the same source
gives the same bytes anywhere.
"""

import argparse
import hashlib
import html
import re
import shutil
import sys
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

SOURCES = {
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "tweet": "tweets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
}
# Editorials hardly ever reach a clear sentiment, and would teach that news is negative.
TASKS = {"sentiment": ["movie", "amazon", "tweet"], "rating": ["movie", "amazon", "tweet", "nyt"]}
COLUMN = {"sentiment": "label", "rating": "rating"}
SIZES = {"train": 2000, "validation": 500, "test": 1000}
# Snippets of one review or article stay together, so splits are drawn by share, not by count.
SHARES = {"train": 0.55, "validation": 0.15, "test": 0.30}
CLEAR = 1.0  # a rating this far from zero counts as negative or positive
BIN = 0.5  # width of the bins over which ratings are spread
LIMIT = 0.5  # Jaccard similarity from which two texts count as the same
MIN_WORDS = 3


def clean(text):
    """One line of plain text: entities decoded, white space collapsed."""
    return " ".join(html.unescape(text).split())


def normal(text):
    """What is compared: lower case without addresses, mentions, accents and punctuation."""
    text = unicodedata.normalize("NFKD", html.unescape(text)).lower()
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = re.sub(r"https?\S+|www\.\S+|@\w+", " ", text)
    text = re.sub(r"[^\w\s]|_", " ", text)
    return " ".join(text.split())


def grams(text):
    """The two sets of grams of a normalised text: of five characters, and of three words."""
    words = text.split()
    characters = {text[i:i + 5] for i in range(max(1, len(text) - 4))}
    triples = {" ".join(words[i:i + 3]) for i in range(max(1, len(words) - 2))}
    return characters, triples


def similar_pairs(sets):
    """All pairs (i, j), i < j, whose Jaccard similarity reaches LIMIT. Exact: two such sets share one
    of their rarest grams, so only the rare half of each set is indexed."""
    frequency = Counter(g for s in sets for g in s)
    index = defaultdict(list)
    for i, grams_i in enumerate(sets):
        ordered = sorted(grams_i, key=lambda g: (frequency[g], g))
        needed = -(-len(ordered) * LIMIT // 1)  # an overlap below this cannot reach LIMIT
        prefix = ordered[:len(ordered) - int(needed) + 1]
        candidates = {j for g in prefix for j in index[g]}
        for j in sorted(candidates):
            grams_j = sets[j]
            if min(len(grams_i), len(grams_j)) < LIMIT * max(len(grams_i), len(grams_j)):
                continue
            shared = len(grams_i & grams_j)
            if shared >= LIMIT * (len(grams_i) + len(grams_j) - shared):
                yield j, i
        for g in prefix:
            index[g].append(i)


def near_duplicates(texts):
    """Pairs of positions whose normalised texts are near-duplicates by either kind of gram."""
    pairs = set()
    both = [grams(t) for t in texts]
    for kind in range(2):
        pairs.update(similar_pairs([b[kind] for b in both]))
    return sorted(pairs)


class Groups:
    """Disjoint sets over 0..n."""

    def __init__(self, n):
        self.parent = list(range(n))

    def find(self, i):
        while self.parent[i] != i:
            self.parent[i] = self.parent[self.parent[i]]
            i = self.parent[i]
        return i

    def join(self, i, j):
        i, j = sorted((self.find(i), self.find(j)))
        self.parent[j] = i


def digest(*parts):
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read_sources(folder):
    """Rows as (source, document, rating, text, normalised text)."""
    rows = []
    for source, file in SOURCES.items():
        for line in (folder / file).read_text(encoding="utf-8").splitlines():
            if not line.strip():
                continue
            number, rating, text = line.split("\t")
            text = clean(text)
            norm = normal(text)
            if len(norm.split()) < MIN_WORDS:
                continue
            # Amazon and NYT ids are DOCUMENT_SENTENCE; a movie snippet or a tweet stands alone.
            document = f"{source}/{number.split('_')[0]}"
            rows.append((source, document, float(rating), text, norm))
    return rows


def assign(rows):
    """Split of each row, and the rows to leave out because an earlier one says the same."""
    groups, same = Groups(len(rows)), Groups(len(rows))
    first = {}
    for i, row in enumerate(rows):
        groups.join(i, first.setdefault(row[1], i))
    for i, j in near_duplicates([r[4] for r in rows]):
        groups.join(i, j)
        same.join(i, j)
    repeated = {i for i in range(len(rows)) if same.find(i) != i}
    splits = []
    for i in range(len(rows)):
        place = int(digest("split", rows[groups.find(i)][4])[:12], 16) / 16**12
        for split, share in SHARES.items():
            place -= share
            if place < 0:
                break
        splits.append(split)
    return splits, repeated


def bin_of(rating):
    return min(int((rating + 4) / BIN), int(8 / BIN) - 1)


def quotas(available, total):
    """Take equally from each class until the small ones run out."""
    out, rest = {}, total
    for left, (key, n) in enumerate(sorted(available.items(), key=lambda kv: (kv[1], kv[0]))):
        out[key] = min(n, rest // (len(available) - left))
        rest -= out[key]
    return out


def pick(task, split, rows, members):
    """The examples of one file, in the order they stand in it."""
    classes = defaultdict(list)
    for i in members:
        rating = rows[i][2]
        if task == "rating":
            classes[bin_of(rating)].append(i)
        elif abs(rating) >= CLEAR:
            classes["positive" if rating > 0 else "negative"].append(i)
    take = quotas({k: len(v) for k, v in classes.items()}, SIZES[split])
    chosen = []
    for key, ids in classes.items():
        ids.sort(key=lambda i: digest(task, rows[i][4]))
        chosen += [(digest(task, "order", rows[i][4]), rows[i], key) for i in ids[:take[key]]]
    chosen.sort(key=lambda c: c[0])
    return [(row[3], f"{row[2]:.4f}" if task == "rating" else key, row[0]) for _, row, key in chosen]


def make(source, out):
    rows = read_sources(source)
    splits, repeated = assign(rows)
    print(f"{len(rows)} snippets of {MIN_WORDS} or more words, {len(repeated)} near-duplicates left out")
    out.mkdir(parents=True, exist_ok=True)
    for task, sources in TASKS.items():
        for split in SIZES:
            members = [i for i, r in enumerate(rows)
                       if splits[i] == split and i not in repeated and r[0] in sources]
            chosen = pick(task, split, rows, members)
            lines = [f"text\t{COLUMN[task]}"] + [f"{text}\t{target}" for text, target, _ in chosen]
            (out / f"{task}-{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
            mix = ", ".join(f"{k} {v}" for k, v in sorted(Counter(c[2] for c in chosen).items()))
            print(f"{task}-{split}: {len(chosen)} of {len(members)} candidates ({mix})")
    if (source / "LICENSE").exists():
        shutil.copyfile(source / "LICENSE", out / "LICENSE")


def check(folder):
    """Read the files back and return what is wrong with them."""
    wrong, texts, where = [], [], []
    for task, column in COLUMN.items():
        for split, size in SIZES.items():
            name = f"{task}-{split}"
            header, *lines = (folder / f"{name}.tsv").read_text(encoding="utf-8").split("\n")[:-1]
            if header != f"text\t{column}":
                wrong.append(f"{name}: header {header!r}")
            fields = [line.split("\t") for line in lines]
            if any(len(f) != 2 or not f[0].strip() for f in fields):
                wrong.append(f"{name}: a row is not text<TAB>{column}")
                continue
            if len(fields) != size:
                wrong.append(f"{name}: {len(fields)} rows instead of {size}")
            words = sum(len(f[0].split()) for f in fields) / len(fields)
            if task == "sentiment":
                counts = Counter(f[1] for f in fields)
                if counts != {"negative": size // 2, "positive": size // 2}:
                    wrong.append(f"{name}: not balanced: {dict(counts)}")
            else:
                ratings = [float(f[1]) for f in fields]
                counts = Counter(f"{bin_of(r) * BIN - 4:+.1f}" for r in ratings)
                if not all(-4 <= r <= 4 for r in ratings):
                    wrong.append(f"{name}: a rating is outside -4..4")
                if max(counts.values()) > size / 10:
                    wrong.append(f"{name}: one bin holds {max(counts.values())}")
                if abs(sum(ratings) / len(ratings)) > 0.3:
                    wrong.append(f"{name}: mean rating {sum(ratings) / len(ratings):.2f}")
            shown = " ".join(f"{k}:{v}" for k, v in sorted(counts.items(), key=lambda kv: (float(kv[0]) if task == "rating" else 0, kv[0])))
            print(f"{name}: {len(fields)} rows, {words:.1f} words each; {shown}")
            texts += [normal(f[0]) for f in fields]
            where += [(task, split)] * len(fields)
    within = across = 0
    for i, j in near_duplicates(texts):
        if where[i][1] != where[j][1]:
            across += 1
            wrong.append(f"near-duplicates in {'-'.join(where[i])} and {'-'.join(where[j])}: "
                         f"{texts[i]!r} / {texts[j]!r}")
        elif where[i][0] == where[j][0]:
            within += 1
            wrong.append(f"near-duplicates within {'-'.join(where[i])}: {texts[i]!r} / {texts[j]!r}")
    print(f"near-duplicates across splits (either task): {across}; within a file: {within}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="SOURCE OUT, or with --check the output")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    if len(args.folders) != (1 if args.check else 2):
        parser.error("give SOURCE and OUT, or with --check one folder")
    if not args.check:
        make(*args.folders)
    wrong = check(args.folders[-1])
    for line in wrong:
        print(f"WRONG {line}", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
