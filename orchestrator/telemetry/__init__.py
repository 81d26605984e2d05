"""What a run shows of itself: tracking, the logged model, gauges, where the time went, ranks' logs."""
