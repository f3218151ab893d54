// Package nodetest runs clusters of real nodes in one process, on loopback, and cuts, slows and restarts them.
//
//	c := nodetest.New(t, 3)
//	old := c.WaitLeader()
//	old.Isolate()
//	c.WaitLeader().Client().CreateRun(…)
//	c.Heal()
//
// Several organisations share one Network, each with a CA and a trust domain of its own:
//
//	net := nodetest.NewNetwork(t)
//	acme, globex := net.NewOrg("acme", 3), net.NewOrg("globex", 1)
//	acme.Node(0).Cut(globex.Node(0))
//
// Every node has an address of its own in 127.0.0.0/8 (which Linux answers on as a whole) and the same five ports, so that
// it comes back where it was. What nodes send to each other, raft, commands, talk, gossip and joining, goes through
// node.Options.Network. The sending side carries both directions of a connection, so listeners need not know: what is sent
// to a node is known by the address. A cut loses datagrams; it keeps what is on its way on a connection until it heals, as
// TCP would, and opens none meanwhile. Tests themselves speak to a node's API past the network.
//
// Nothing outlives the test: nodes are stopped, then the network. What a killed process or a lost disk does to a node is
// looked at on the built binary (tests/cluster).
//
// Room: wiring, for tests alone. It imports node, api/client and what tests need.
package nodetest
