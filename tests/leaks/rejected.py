"""Flows whose credentials are refused before anything is sent, with a good key in them."""

from __future__ import annotations

import os
from typing import Any

from prefect import flow, task
from pydantic import SecretStr

from prefect_cometapi import CometAPICredentials, PredictionJob
from tests.leaks.flows import MODEL
from tests.leaks.outlets import attempt, close_outlets, open_outlets


def key() -> SecretStr:
    return SecretStr(os.environ["REFUSED_KEY"])


@task(persist_result=True)
def loads_what_is_not_usable() -> None:
    CometAPICredentials.load("to-be-spoilt")


@task(persist_result=True)
def takes_a_url_without_tls() -> None:
    CometAPICredentials(api_key=key(), base_url="http://staging.example")


@task(persist_result=True)
def makes_a_job_of_plain_data() -> None:
    data: Any = {"api_key": key().get_secret_value(), "base_url": "http://staging.example"}
    PredictionJob(credentials=data, model=MODEL)


@task(persist_result=True)
def forgets_the_model() -> None:
    data: Any = {"credentials": {"api_key": key().get_secret_value()}}
    PredictionJob(**data)


@flow
def rejected() -> None:
    for each in (
        loads_what_is_not_usable,
        takes_a_url_without_tls,
        makes_a_job_of_plain_data,
        forgets_the_model,
    ):
        attempt(each, with_locals=False)


if __name__ == "__main__":
    open_outlets()
    rejected()
    close_outlets()
