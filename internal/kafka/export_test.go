package kafka

// FirstProtocol returns the config without the second transaction protocol, as with older brokers.
func (c Config) FirstProtocol() Config {
	c.first = true
	return c
}
