"""The dataset service: labeled examples, validated, stored whole, handed out again."""
