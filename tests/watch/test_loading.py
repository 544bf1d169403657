from pathlib import Path

from fedhello.watch.loading import loading_page, loading_script


def test_the_page_of_a_run_without_a_folder_names_it_and_runs_one_script():
    page = loading_page(Path("runs/<b>&co"))
    assert "<h1>&lt;b&gt;&amp;co</h1>" in page and "<b>" not in page
    assert page.count("<script>") == 1
    assert f"<script>{loading_script()}</script>" in page
    assert "EventSource" in loading_script()
