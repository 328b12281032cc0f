package commandv1

// Protocol is the newest protocol that this version speaks: what it understands in the log and in sessions. It grows by one with each release
// that adds to either what older versions must not miss; the .proto files say what came with which.
const Protocol = 2
