"""Where rows come from: formats of files, their index, splits, bundled data and people's own pipelines."""
