"""Recommends a backend and a broker for a team, with rules as data and measured figures.

``recommend(Needs(…))`` is the command ``rootcellar recommend`` in Python.
"""

from rootcellar.descriptions import Variable
from rootcellar.onboarding.recommend.answer import Recommendation, recommend
from rootcellar.onboarding.recommend.needs import QUESTIONS, Keep, MayLose, Needs, Question, Readers, Runs
from rootcellar.onboarding.recommend.setup import RedisForm, Setup

__all__ = [
    "QUESTIONS",
    "Keep",
    "MayLose",
    "Needs",
    "Question",
    "Readers",
    "Recommendation",
    "RedisForm",
    "Runs",
    "Setup",
    "Variable",
    "recommend",
]
