package fault

// 5xxx: operators, tokens, approvals.
const (
	NotAuthenticated   Code = 5001
	NotAllowed         Code = 5002
	TokenUnknown       Code = 5003
	TokenInvalid       Code = 5004
	ApprovalUnknown    Code = 5010
	ApprovalOwn        Code = 5011
	ApprovalState      Code = 5012
	OperatorUnknown    Code = 5020
	OperatorExists     Code = 5021
	OperatorLast       Code = 5022
	RouteUnknown       Code = 5030
	MethodNotAllowed   Code = 5031
	TooManyRequests    Code = 5032
	ParameterInvalid   Code = 5033
	IdempotencyChanged Code = 5034
)

var accessEntries = []Entry{
	{NotAuthenticated, Unauthenticated, "the caller is not authenticated", "use the local socket, or a valid API token"},
	{NotAllowed, Forbidden, "the caller may not do this", "ask an administrator for the role or scope"},
	{TokenUnknown, NotFound, "there is no such API token", "list the tokens"},
	{TokenInvalid, Invalid, "the API token's settings are not acceptable", "name known scopes and an expiry of at most 366 days"},
	{ApprovalUnknown, NotFound, "there is no such approval", "list the approvals"},
	{ApprovalOwn, Forbidden, "an approval needs another operator than the one who asked", "let a second operator decide"},
	{ApprovalState, Conflict, "the approval was decided or has expired", "ask again if the act is still wanted"},
	{OperatorUnknown, NotFound, "there is no such operator", "list the operators"},
	{OperatorExists, Conflict, "an operator with this name exists", "choose another name"},
	{OperatorLast, Conflict, "the last administrator cannot be disabled or limited", "make another operator an administrator first"},
	{RouteUnknown, NotFound, "there is nothing at this address", "check the path; it is case-sensitive"},
	{MethodNotAllowed, Invalid, "the method is not allowed at this address", "see the API description"},
	{TooManyRequests, Exhausted, "too many requests", "wait for the time in Retry-After"},
	{ParameterInvalid, Invalid, "a parameter is not acceptable", "correct what the detail names"},
	{IdempotencyChanged, Conflict, "this idempotency key was used with another request", "use a new key for a new request"},
}
