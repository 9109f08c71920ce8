"""How a model of the zoo fares: one trial of Penjing, one of a peer, each in a process with limits."""
