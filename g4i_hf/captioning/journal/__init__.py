"""What was answered: durable before it counts, found again by key and by place."""
