"""The whole protocol on a trained model: counts by the runtime's pipeline, and the report that is made of them."""
