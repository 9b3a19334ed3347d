"""The judge in the daemon: what is to be judged is chosen where answers are scored (`selection`), waits in the store, is asked of
a process of its own (`process`) by a thread of its own (`judging`), within the budgets of the day (`spending`). Local scores
never wait for it."""
