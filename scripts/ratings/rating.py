"""A distribution over scores from a causal language model, and what to read from it.

A model that answers with a score, such as "9.7", gives every other score a probability too. Its tokens are read as a
tree, shared by all candidates; "9.7" is three tokens of Qwen's tokenizer, and 9.6 and 9.7 part at the last:

    prompt ─┬─ 9 ─── . ─┬─ 7        p(9.7) = p(9) · p(. | 9) · p(7 | 9.)
            │           └─ 6        p(9.6) = p(9) · p(. | 9) · p(6 | 9.)
            └─ 1 ─┬─ . ─── 3 ...
                  └─ 0 ─── . ─ 0

The model reads the prompt once, and behind it the tree's inner tokens in the same pass: 22 of them stand for all 101
candidates. A mask lets each see the prompt and its own ancestors, and its position is its depth, so that each is read
as if it stood there alone.

Words used here: a *candidate* is a score as text; its *probability* is the model's for its tokens, as a share of all
candidates'; *mass* is what the candidates have together, before that share is taken: a model that wants to say
something else has little.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import linear

from scripts import chat, likelihood
from scripts.artifacts import fingerprint, journaled
from scripts.models import identity

SCORES = tuple(tenths / 10 for tenths in range(101))  # 0.0, 0.1, ..., 10.0


# --- the candidates as a tree ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tree:
    """Candidates' token ids as a tree.

    Node 0 is the end of the prompt; the others are tokens that some candidate goes on behind. An edge leads from a node
    to a token: to another node, or to a candidate's end.
    """

    nodes: tuple[tuple[int, ...], ...]  # the tokens that lead to each node; () for node 0
    edges: tuple[tuple[int, int], ...]  # (node it starts from, token)
    paths: tuple[tuple[int, ...], ...]  # the edges of each candidate

    @classmethod
    def of(cls, tokenizer, candidates: Sequence[str]) -> Tree:
        """The tree of these texts; where one's tokens begin another's (1 and 10), the end of the turn parts them.

        Raises ValueError for no candidates, a text without tokens, and two with the same tokens.
        """
        if not candidates:
            raise ValueError("no candidates; a distribution needs at least one")
        ids = [tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in candidates]
        for number, (text, tokens) in enumerate(zip(candidates, ids, strict=True)):
            if not tokens or tokens in ids[:number]:
                wrong = f"has the tokens of {candidates[ids.index(tokens)]!r}" if tokens else "has no tokens"
                raise ValueError(f"candidate {number}, {text!r}, {wrong}; each needs tokens of its own")
        if {tokens[:n] for tokens in ids for n in range(len(tokens))} & set(ids):
            ids = [(*tokens, chat.conventions(tokenizer).end_id) for tokens in ids]
        edges: dict[tuple[tuple[int, ...], int], int] = {}
        paths = [
            tuple(edges.setdefault((tokens[:n], tokens[n]), len(edges)) for n in range(len(tokens))) for tokens in ids
        ]
        nodes = sorted({prefix for prefix, _ in edges}, key=len)
        place = {prefix: number for number, prefix in enumerate(nodes)}
        return cls(tuple(nodes), tuple((place[prefix], token) for prefix, token in edges), tuple(paths))

    def sees(self) -> torch.Tensor:
        """(nodes - 1, nodes - 1): whether the node in the row is the one in the column, or stands behind it."""
        inner = self.nodes[1:]
        return torch.tensor([[a[: len(b)] == b for b in inner] for a in inner]).reshape(len(inner), len(inner))


# --- one pass --------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def _edges(model, prompts: list[tuple[int, ...]], tree: Tree, constrained: bool) -> torch.Tensor:
    """Log-probability of each edge's token behind its node, (batch, edges): among all tokens, or among the tree's."""
    ids, positions, sees = (part.to(model.device) for part in _inputs(prompts, tree))
    hides = torch.zeros(sees.shape, dtype=model.dtype, device=model.device)
    hides.masked_fill_(~sees, torch.finfo(model.dtype).min)
    inputs = {"input_ids": ids, "position_ids": positions, "attention_mask": hides, "use_cache": False}
    tokens = sorted({token for _, token in tree.edges})
    starts = torch.tensor([node for node, _ in tree.edges], device=model.device)
    column = torch.tensor([tokens.index(token) for _, token in tree.edges], device=model.device)
    logits, total = _logits(model, inputs, len(tree.nodes), torch.tensor(tokens, device=model.device), constrained)
    if constrained:
        leads = torch.zeros(len(tree.nodes), len(tokens), dtype=torch.bool, device=model.device)
        leads[starts, column] = True
        total = logits.masked_fill(~leads, -torch.inf).logsumexp(-1)
    return logits[:, starts, column] - total[:, starts]


def _inputs(prompts: list[tuple[int, ...]], tree: Tree) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids and positions (batch, width), and who sees whom (batch, 1, width, width); prompts are padded on the left."""
    longest, inner = max(map(len, prompts)), len(tree.nodes) - 1
    width = longest + inner
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    positions = torch.zeros(len(prompts), width, dtype=torch.long)
    mask = torch.ones(len(prompts), 1, width, width, dtype=torch.bool).tril()
    mask[:, :, longest:, longest:] = tree.sees()
    last = torch.tensor([prefix[-1] for prefix in tree.nodes[1:]], dtype=torch.long)
    depth = torch.tensor([len(prefix) for prefix in tree.nodes[1:]], dtype=torch.long)
    for row, prompt in enumerate(prompts):
        empty = longest - len(prompt)
        ids[row, empty:] = torch.cat([torch.tensor(prompt), last])
        positions[row, empty:] = torch.cat([torch.arange(len(prompt)), len(prompt) - 1 + depth])
        mask[row, :, empty:, :empty] = False  # padding sees padding: who sees nothing turns to NaN in float16
    return ids, positions, mask


def _logits(model, inputs: dict, nodes: int, tokens: torch.Tensor, constrained: bool) -> tuple:
    """Logits of `tokens` at the last `nodes` positions, (batch, nodes, tokens), and of the whole vocabulary their
    logsumexp, (batch, nodes), or None where nobody needs it."""
    if not likelihood.head_is_enough(model):
        keep = torch.zeros_like(inputs["input_ids"], dtype=torch.bool)
        keep[:, -nodes:] = True
        logits = likelihood.own_logits(model, keep, **inputs).float().view(len(keep), nodes, -1)
        return logits[..., tokens], logits.logsumexp(-1)
    hidden, head = model.get_decoder()(**inputs).last_hidden_state[:, -nodes:], model.get_output_embeddings()
    if constrained and type(head) is torch.nn.Linear:  # the head's rows of these tokens are enough
        return linear(hidden, head.weight[tokens], None if head.bias is None else head.bias[tokens]).float(), None
    parts = [
        (logits[:, tokens], logits.logsumexp(-1))
        for logits in (head(some).float() for some in hidden.flatten(0, 1).split(likelihood.HEAD_POSITIONS))
    ]
    logits, total = (torch.cat(part) for part in zip(*parts, strict=True))
    return logits.view(*hidden.shape[:2], -1), total.view(hidden.shape[:2])


# --- many questions --------------------------------------------------------------------------------------------------


def distribution(
    model,
    tokenizer,
    questions: Iterable[str],
    scores: Sequence[float] = SCORES,
    *,
    batch_size: int = 64,
    constrained: bool = False,
    journal: str | Path | None = None,
    progress: bool = True,
) -> Ratings:
    """How likely the model answers each question with each of `scores` (written with one decimal).

    A score's probability is that the answer begins with its text, as a share of what all scores have together; so it
    equals scoring each candidate by itself and dividing by the sum. `constrained` asks instead how likely a decoding
    that is held to the scores ends at each: at every token, what leads to no score is left out first. That needs a few
    rows of the head instead of all, and is the same where the model puts all its mass on scores.

    Questions are sorted by length; each is asked once. With a `journal` (a folder) each batch is on disk when the next
    begins, and a killed run goes on behind the last one, to the same result. Under `accelerate launch` the processes
    share the batches.

    Attention must be one that takes a mask of its own (eager or sdpa, not flash attention). Raises ValueError for what
    is no list of texts, no questions, one that chat.prompt_ids refuses, flash attention, a question longer than a
    sliding window, and candidates that cannot be told apart.
    """
    attention = model.config._attn_implementation or ""
    if "flash" in attention:
        raise ValueError(
            f"attention is {attention!r}, which takes no mask of a tree; load with attn_implementation='sdpa'"
        )
    questions = chat.listed(questions)
    if not questions:
        raise ValueError("no questions; at least one is right")
    model.eval()
    tree = Tree.of(tokenizer, [f"{score:.1f}" for score in scores])
    prompts = {question: tuple(chat.prompt_ids(tokenizer, question)) for question in dict.fromkeys(questions)}
    ordered = sorted(dict.fromkeys(prompts.values()), key=len, reverse=True)
    longest = len(ordered[0]) + len(tree.nodes[-1])
    window = getattr(model.config.get_text_config(), "sliding_window", None)
    if window and longest > window:
        raise ValueError(
            f"a question has {longest} tokens with a score's, the attention's sliding window {window}: "
            "the tree's mask knows no window, so ask shorter questions"
        )
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    made_of = fingerprint(identity(model), ordered, batch_size, tree.edges, tree.paths, constrained) if journal else ""
    found = journaled(
        batches,
        lambda batch: _rated(_edges(model, batch, tree, constrained), tree),
        journal,
        made_of,
        verb="rated",
        progress=progress,
    )
    of_prompt = dict(zip(ordered, (row for batch in found for row in batch), strict=True))
    rows = [of_prompt[prompts[question]] for question in questions]
    probability, mass, greedy = (np.array(part, dtype=float) for part in zip(*rows, strict=True))
    return Ratings(np.array(scores, float), probability, mass, np.array(scores, float)[greedy.astype(int)])


def _rated(edges: torch.Tensor, tree: Tree) -> list[tuple[list[float], float, int]]:
    """Each row's probabilities, mass, and the candidate that greedy decoding ends at."""
    edges = edges.double().cpu()
    logs = torch.stack([edges[:, list(path)].sum(1) for path in tree.paths], dim=1)
    mass = logs.logsumexp(1)
    greedy = [_greedy(row, tree) for row in edges.tolist()]
    return list(zip((logs - mass[:, None]).exp().tolist(), mass.exp().tolist(), greedy, strict=True))


def _greedy(edges: list[float], tree: Tree) -> int:
    """The candidate at the end of the likeliest token, then the likeliest behind it, and so on."""
    left, depth = list(range(len(tree.paths))), 0
    while len(left) > 1:
        best = max((tree.paths[number][depth] for number in left), key=edges.__getitem__)
        left = [number for number in left if tree.paths[number][depth] == best]
        depth += 1
    return left[0]


@dataclass(frozen=True)
class Ratings:
    """Distributions over scores, one a question, and what to say instead of a whole distribution."""

    scores: np.ndarray  # (candidates,), rising
    probability: np.ndarray  # (questions, candidates), rows sum to one
    mass: np.ndarray  # (questions,): what the candidates have together, in the model's own probability
    greedy: np.ndarray  # (questions,): the score of greedy decoding held to the candidates

    def __len__(self) -> int:
        return len(self.probability)

    def mean(self) -> np.ndarray:
        """The expected score: of all numbers the least expected squared error."""
        return self.probability @ self.scores

    def median(self) -> np.ndarray:
        """The score with as much probability above as below: of all numbers the least expected absolute error."""
        return self.quantile(0.5)

    def mode(self) -> np.ndarray:
        """The likeliest score: of all numbers the one that is most often exactly right."""
        return self.scores[self.probability.argmax(1)]

    def spread(self) -> np.ndarray:
        """Standard deviation, in points."""
        variance = self.probability @ self.scores**2 - self.mean() ** 2
        return np.sqrt(variance.clip(0))

    def quantile(self, share: float) -> np.ndarray:
        """The smallest score that has at least `share` of the probability at or below it."""
        reached = self.probability.cumsum(1) >= share - 1e-12
        return self.scores[np.where(reached.any(1), reached.argmax(1), len(self.scores) - 1)]

    def interval(self, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper score that hold at least `share` of the probability, with as much of the rest beyond each."""
        if not 0 < share < 1:
            raise ValueError(f"share {share}: a share between 0 and 1, such as 0.8, is right")
        return self.quantile((1 - share) / 2), self.quantile((1 + share) / 2)

    def below(self, truth: Sequence[float], rng: np.random.Generator) -> np.ndarray:
        """Probability of a score below the true one, and a random part of that of the true one itself; (questions,).

        Where the distributions say what they should, these are spread evenly over 0..1 (the randomized probability
        integral transform; Czado, Gneiting and Held 2009, doi.org/10.1111/j.1541-0420.2009.01191.x).
        """
        truth = np.asarray(truth, float)[:, None]
        under = (self.probability * (self.scores < truth - 1e-9)).sum(1)
        equal = (self.probability * (abs(self.scores - truth) < 1e-9)).sum(1)
        return under + rng.random(len(self)) * equal


def conformal_margin(low: Sequence[float], high: Sequence[float], truth: Sequence[float], share: float) -> float:
    """By how many points must intervals grow at each end (below 0: shrink) to hold `share` of new rows like these?

    Split conformal prediction with intervals to start from (Romano, Patterson and Candès 2019,
    arxiv.org/abs/1905.03222): the (n + 1) share-th smallest of how far the truth lies outside its interval. The rows
    must not have been trained on.

    Raises ValueError for too few rows to promise `share` (0.8 needs four), unequal lengths, and values that are not
    finite.
    """
    low, high, truth = (np.asarray(part, float) for part in (low, high, truth))
    if not len(low) == len(high) == len(truth):
        raise ValueError(
            f"{len(low)} low ends, {len(high)} high ends, {len(truth)} true scores: each row needs all three"
        )
    if not np.isfinite([low, high, truth]).all():
        raise ValueError("an end or a true score is NaN or infinite; numbers are right")
    outside, rank = np.sort(np.maximum(low - truth, truth - high)), math.ceil((len(truth) + 1) * share - 1e-9)
    if not 0 < share < 1 or rank > len(outside):
        raise ValueError(
            f"{len(truth)} rows can't promise a share of {share}: a share below 1 and rows to match are needed"
        )
    return float(outside[rank - 1])
