"""What is known of the traffic of a model without its rows: counts by hour and feature, which add up."""
