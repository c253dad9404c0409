from lorabook.page.status import status_page
from lorakit.records import Record, Store
from lorakit.specs import SFTSpec


def record(rate, status="ok", **provenance):
    spec = SFTSpec(model="m@1", dataset="d@1", learning_rate=rate)
    return Record.from_run(spec, status, {}, {}, {"device": "cpu", "torch": "2.13", "seconds": 1800} | provenance)


def test_a_store_without_records_says_what_to_run(tmp_path):
    assert "`lorabook run EXPERIMENT`" in status_page(Store(tmp_path))


def test_runs_dates_hours_and_versions_come_from_provenance(tmp_path):
    store = Store(tmp_path)
    store.append("cpu", "rank", record(1e-3, date="2026-11-20T10:00:00+00:00"))
    store.append("cpu", "rank", record(1e-2, "diverged", date="2026-11-21T10:00:00+00:00"))
    store.append("gpu", "rank", record(1e-1, date="2026-11-21T10:00:00+00:00", device="a GPU"))
    page = status_page(store)
    assert "3 runs of 2 experiments, made 2026-11-20 to 2026-11-21, 1.5 hours in all." in page
    assert "Not all ended well: cpu rank diverged 1 of 2." in page
    assert "### cpu\n\n| experiment | runs | hours | made |\n" in page
    assert "| rank | 2 | 1.00 | 21 Nov |" in page
    assert "| rank | 1 | 0.50 | 21 Nov |" in page
    assert "| runs | device |\n| --- | --- |\n| 2 | cpu |\n| 1 | a GPU |" in page, "what differs alone"
    assert "torch 2.13" in page[page.index("All of them: "):].partition("\n")[0]
    assert "Every line of every file of records was read." in page


def test_an_unreadable_line_is_listed_without_the_path_of_this_machine(tmp_path):
    store = Store(tmp_path)
    store.append("cpu", "rank", record(1e-3))
    with store.path("cpu", "rank").open("a") as file:
        file.write('{"torn')
    page = status_page(store)
    assert "- cpu/rank.jsonl:2: " in page
    assert str(tmp_path) not in page
