"""The deliveries of the demo."""

from uuid import UUID

from meshhook.demo import scenario
from meshhook.store.bodies import encode_body

URL = "http://127.0.0.1:8080/webhooks"


def test_deliveries_are_the_example_webhooks_over_and_over():
    """More deliveries than examples start again from the first one."""
    webhooks = scenario.load_webhooks()
    jobs = list(scenario.deliveries(len(webhooks) + 1, URL))

    assert len(jobs) == 330
    assert [job.payload["body"] for job in jobs[:-1]] == [each["payload"] for each in webhooks]
    assert jobs[-1].payload["body"] == jobs[0].payload["body"]
    assert {job.payload["url"] for job in jobs} == {f"{URL}/{name}" for name in scenario.RECEIVERS}


def test_every_delivery_has_an_id_of_its_own():
    """Two deliveries of the same example are two deliveries."""
    jobs = list(scenario.deliveries(2_000, URL))

    assert len({job.payload["id"] for job in jobs}) == 2_000
    assert len({job.run_id for job in jobs}) == 2_000


def test_deliveries_are_the_same_in_every_run():
    """Identifiers depend on the position alone."""
    assert list(scenario.deliveries(5, URL)) == list(scenario.deliveries(5, URL))
    assert next(scenario.deliveries(1, URL)).run_id == "700762d0-9b6d-5a3c-befa-04cc302ea540"


def test_identifiers_are_uuids_and_the_project_is_one_of_the_demo():
    """The demo knows its own jobs by their project."""
    for job in scenario.deliveries(10, URL):
        assert UUID(job.run_id)
        assert UUID(job.workflow_id)
        assert job.project_id in scenario.project_ids()


def test_every_delivery_fits_into_a_message():
    """The largest example is well below the size limit of a queue."""
    for job in scenario.deliveries(329, URL):
        encode_body(job, 65_536)
