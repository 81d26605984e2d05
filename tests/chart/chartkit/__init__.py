"""What the chart's tests share: rendering, strict schemas, Pod Security, and the evaluation of network policies."""
