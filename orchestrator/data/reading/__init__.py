"""Which process reads which rows, and when: rows, blocks, streams, through Ray Data or by the worker itself."""
