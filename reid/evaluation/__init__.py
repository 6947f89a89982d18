"""Retrieval scored exactly: mAP, mINP and CMC of queries against a gallery, without sorting a gallery.

Only the ranks of a query's matches matter, and the rank of a match is one more than the number of images nearer to the
query. So distances are made for a block of queries at a time, images farther than the query's farthest match are
filtered out with one comparison, and the few that remain are counted between the matches. The whole matrix of distances
never exists.

The rule is that of Market-1501 (Zheng et al., ICCV 2015): for each query, gallery images of the same identity *and* the
same camera are not ranked, junk (identity -1) is never ranked, distractors (identity 0) are ranked as wrong images.
Queries that have no match left are skipped and counted.

Equal distances are placed by a policy, never by their index. What `Protocol.ties` computes for a query:

* `expected`: the mean over all orders of the images tied with each other, each order as likely as any other. The AP is
  the mean AP over those orders, the INP the mean INP, the first match rank the mean rank of the first match, and
  `cmc[k - 1]` the probability that a match is among the first k. All are computed exactly, nothing is drawn.
* `pessimistic`: every measure in the one order that puts every wrong image before the matches it is tied with.
"""

from reid.config import Protocol
from reid.evaluation.embeddings import Embeddings
from reid.evaluation.retrieval import RetrievalResult, evaluate

__all__ = ["Embeddings", "Protocol", "RetrievalResult", "evaluate"]
