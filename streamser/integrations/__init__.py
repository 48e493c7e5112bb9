"""Publish events to other systems: MQTT for Home Assistant, Wyoming for voice satellites."""
