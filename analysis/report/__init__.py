"""The report: one static site in ``results/report/`` out of what is committed, and out of the executed notebooks.

    make report                              # runs the notebooks, then builds the site
    python -m analysis.report --no-notebooks # with the copies that the last run of the notebooks left
    python -m analysis.report --live         # also the runs of your own store

| page | holds | made by |
|---|---|---|
| ``index.html`` | each claim with verdict and evidence; what is missing, and what makes it | ``verdicts.py`` |
| ``leaderboard.html`` | each arm of each study: mean, interval, n; sorts and filters | ``leaderboard.py`` |
| ``figures.html`` | all figures with their captions | ``figures.py`` |
| ``studies.html``, ``studies/<study>.html`` | each run: settings, command, scores, slices, curves | ``runs.py`` |
| ``notebooks/<name>.html`` | an executed notebook | ``notebooks.py`` |
| ``verdicts.md`` | the verdicts as Markdown, for other places | ``verdicts.py`` |

The tools are nbconvert's HTML exporter for the notebooks' bodies, itables for the table that sorts, and jinja2 for the
pages around them, all of which the notebooks bring along. Jupyter Book and Quarto are made for books: the one is a site
generator with a build of its own, the other a program that no package index has, for eight pages of our own and data
that no notebook holds. No page asks for anything outside the folder: no CDN, no font, no counter.

Runs have one page a study, not one page a run. A run is read beside the other seeds and arms of its study; what seeds
share (settings, hashes, machine) is written once; thirty files open from a disk and search as they are, where
thousands need a server. Each run has an anchor: ``studies/overview.html#run-00ef5d32c4-s0``.
"""
