"""How far a backend agrees with people: the human annotations that accompany the benchmark.

Five people answered structured questions about each of 400 images of three models: how many of each object there are, in which
colours, where the second lies, and how well the caption fits. The files are `annotations/annotations_{clip,if-xl,sdv2}.csv` of
djghosh13/geneval; the images are public (column `Input.image_url`). Score the images, then compare the verdicts with the answers.

The paper (arXiv 2310.11513) reports 83 % agreement of the metric with annotators, 88 % between annotators, and 91 % on
images about which all agree. The code behind these figures is not published, so ours are comparable with them but not the same.
"""

from geneval_reward.study.annotations.agreement import PAPER, Agreement, TaskAgreement, agreement
from geneval_reward.study.annotations.read import AnnotatedImage, Answer, Criterion, read_annotations

__all__ = [
    "PAPER",
    "Agreement",
    "AnnotatedImage",
    "Answer",
    "Criterion",
    "TaskAgreement",
    "agreement",
    "read_annotations",
]
