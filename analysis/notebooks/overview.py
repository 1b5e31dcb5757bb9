# %% [markdown]
# # Our own comparison
#
# No paper: the mechanisms of all of them side by side, with one trunk, one segment length and one memory budget for
# each task ([Luna](https://arxiv.org/abs/2106.01540), [ConvLuna](https://arxiv.org/abs/2404.00798),
# [TransformerFAM](https://arxiv.org/abs/2404.09173), [Infini-attention](https://arxiv.org/abs/2404.07143),
# [RMT](https://arxiv.org/abs/2207.06881), [Memformer](https://arxiv.org/abs/2010.06891), and what they are compared
# with). Each paper tests its own mechanism, on its own tasks; here the question is what is left of the differences when
# all else is the same. Models are small and trained from scratch for minutes, so an order found here need not be that
# of large ones.

# %%
from analysis import overview
from analysis.claims import overview as overview_claims
from analysis.matrix import differences_table, scores_table
from analysis.notebook import show, table, verdicts
from analysis.pareto import pareto_figure, pareto_table
from analysis.rates import rates_table
from analysis.recall import best_per_state
from analysis.studies import load_study

LIVE = False  # True: also the runs in your own store

three_tasks = load_study("overview", live=LIVE)
text_rates = load_study("text_rates", live=LIVE)
all_tasks = load_study("overview_all", live=LIVE)
state_size = load_study("state_size", live=LIVE)
compressions = load_study("compressions", live=LIVE)
efficiency = load_study("efficiency", live=LIVE)

# %% [markdown]
# ## All mechanisms on three tasks
#
# ListOps, text and passkey. The trivial floor of a task stands in the head of its column; an aggregate is 0 there and 1
# at a perfect score.

# %%
table(scores_table(three_tasks), three_tasks)

# %% [markdown]
# The same as a figure: a dot for the mean over seeds, a line for its interval, the trivial floor in grey.

# %%
show(overview.scores_figure(three_tasks), "overview_scores", three_tasks)

# %% [markdown]
# What each gains over full attention, seed by seed. Hedges' g holds the difference against the spread of the seeds:
# above 1 it is larger than what another seed does.

# %%
table(differences_table(three_tasks), three_tasks)

# %% [markdown]
# ## Is it the learning rate?
#
# One recipe for all may suit some better than others: text at half and at twice its learning rate.

# %%
table(rates_table(text_rates), text_rates)

# %% [markdown]
# ## How long each remembers
#
# A key of five digits, said once, far beyond the lengths of training; mean over depths. The longest columns are tests
# that stored runs were put to later (`mode=eval run=... test={...}`): two prompts a seed at the start, in the middle
# and at the end, where the others have ten at each of five depths.

# %%
show(overview.lengths_figure(three_tasks), "overview_lengths", three_tasks)

# %% [markdown]
# ## All mechanisms on all tasks
#
# Bits per byte of books count in the ranks and not in the aggregate, as nobody knows their ceiling.

# %%
table(scores_table(all_tasks), all_tasks)

# %%
show(overview.scores_figure(all_tasks), "overview_scores_all", all_tasks)

# %%
table(differences_table(all_tasks), all_tasks)

# %% [markdown]
# ## Recall against state
#
# How many pairs a model can recall for the numbers that it carries along time, as in
# [Zoology](https://arxiv.org/abs/2312.04927). A window without memory carries none.

# %%
show(overview.state_size_figure(state_size), "overview_state_size", state_size)

# %% [markdown]
# The best of each budget. A variant is there with the arm that fills the budget best, so nothing is chosen by its test
# score.

# %%
table(best_per_state(state_size), state_size)

# %% [markdown]
# ## Recall against the number of compressions
#
# A fact stands in the first block, its question in the last: in between the memory is written once a block, and each
# time it may lose something.

# %%
show(overview.compressions_figure(compressions), "overview_compressions", compressions)

# %% [markdown]
# ## Quality against cost
#
# The aggregate of three tasks over speed, memory and state of a training step. A ring and a name in bold: no other
# variant is at least as good in score, speed and state, and better in one of them beyond intervals.

# %%
show(pareto_figure(three_tasks, efficiency), "overview_pareto", three_tasks, efficiency)

# %%
table(pareto_table(three_tasks, efficiency), three_tasks, efficiency)

# %% [markdown]
# ## What may be said

# %%
verdicts(overview_claims.CLAIMS, live=LIVE)
