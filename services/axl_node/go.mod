module computepool/axl_node

go 1.26.3

require (
	github.com/yggdrasil-network/yggdrasil-go v0.5.14 // indirect
	gvisor.dev/gvisor v0.0.0-20260905035102-160fafc42237 // indirect
)
