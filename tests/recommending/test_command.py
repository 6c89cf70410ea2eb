"""`rootcellar recommend` as a user runs it."""

from __future__ import annotations

import json

from rootcellar.onboarding.recommend import Keep, Needs, Readers, Runs, recommend
from tests.commands import run_here, run_on_terminal


def test_recommend_answers_flags_without_questions() -> None:
    ended = run_here("recommend", "--keep", "months", "--readers", "people", "--runs", "postgres", "--runs", "redis")
    assert (ended.status, ended.err) == (0, "")
    assert "Result backend: postgres" in ended.out
    assert "We measured " in ended.out
    assert "CELERY_RESULT_BACKEND=postgres" in ended.out
    assert "rootcellar init DIR --broker redis --backend postgres --extended --expires 90d" in ended.out


def test_json_is_the_librarys_answer() -> None:
    ended = run_here("recommend", "--keep", "days", "--runs", "redis", "--readers", "apps", "--json")
    needs = Needs(keep=Keep.DAYS, readers=Readers.APPS, runs=frozenset({Runs.REDIS}))
    assert json.loads(ended.out) == recommend(needs).as_json()


def test_recommend_does_not_ask_without_a_terminal() -> None:
    assert "Result backend: postgres" in run_here("recommend").out


def test_recommend_asks_on_a_terminal() -> None:
    ended = run_on_terminal("recommend", typed="20k\n3\nsometimes\npeople\npostgres, 1\n3\n")
    assert ended.status == 0, ended.out
    assert "It must be a number from 1 to 4" in ended.out
    assert "Result backend: postgres" in ended.out
    assert "Broker:         rabbitmq" in ended.out
    assert "20,000 tasks a day" in ended.out


def test_enter_chooses_the_defaults_on_a_terminal() -> None:
    ended = run_on_terminal("recommend", typed="\n" * 5)
    assert ended.status == 0, ended.out
    assert "Redis + PostgreSQL: production" in ended.out


def test_wrong_flag_is_wrong_use() -> None:
    ended = run_here("recommend", "--keep", "a while")
    assert (ended.status, ended.out) == (2, "")
    assert "months" in ended.err
