package agent

import (
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"
)

// owner says whose file it is, and whether this user is one of them.
func owner(info fs.FileInfo) string {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	owner, group := strconv.FormatUint(uint64(stat.Uid), 10), strconv.FormatUint(uint64(stat.Gid), 10)
	if u, err := user.LookupId(owner); err == nil {
		owner = u.Username
	}
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	groups, _ := os.Getgroups() // without them the rest still holds
	member := "this user is not in the group"
	switch {
	case os.Geteuid() == 0:
		member = "this user is root"
	case slices.Contains(groups, int(stat.Gid)):
		member = "this user is in the group"
	}
	return fmt.Sprintf("user %s, group %s; %s", owner, group, member)
}
