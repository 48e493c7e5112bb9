"""Drop-ins for houses that already talk: MQTT for Home Assistant, Wyoming for voice satellites."""
