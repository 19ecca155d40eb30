"""The frame of all tasks: what a task is, its runs, each made once, comparisons, reports and the commands."""
