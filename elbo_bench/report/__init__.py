"""Reports from records: leaderboard, plots, pages and comparisons with papers. They read files only."""
