package systest

// restDifferences are the places where Millrace answers otherwise than Kafka Connect, on purpose. docs/reference/rest-compatibility.md tells
// users of them.
var restDifferences = []restDifference{
	{what: `\.header\.Content-Type$`, want: `has none$`, got: `application/json$`, why: "the body is JSON, so the header says so"},
	{request: `GET /connectors//x`, what: `\.(body|header)`, want: `a page|text/html`, why: "a bad path is refused in JSON, as everything else is"},

	// A request that can't be read is the client's mistake (400), not the server's (500), and the message says it in words.
	{request: `(POST|PUT|PATCH) .*`, what: `\.(status|body\.error_code)$`, want: `500$`, got: `400$`, why: "the client's mistake is a 400"},
	{request: `(POST|PUT|PATCH) .*`, what: `\.body\.message$`, want: `.*(INCLUDE_SOURCE_IN_LOCATION|Cannot invoke)`, why: "no Java in messages"},
	{request: `PUT .*/validate`, what: `\.body\.message$`, want: `org.apache.kafka.connect.runtime.rest.errors.BadRequestException: `, why: "Connect forgets to unwrap its own exception"},

	// Messages that say more, or the same once.
	{request: `POST .*`, what: `\.body\.message$`, want: `Connector config .* contains no connector type$`, got: `Connector config .* contains no connector type: set connector.class$`, why: "names the key"},
	{request: `POST .*`, what: `\.body\.message$`, want: `(org\.apache\S+: )?Failed to find any class .* available connectors are: PluginDesc`, got: `Failed to find any class that implements Connector and which name matches no.such.Cls, available connectors are: `, why: "lists names, not Java objects"},
	{request: `POST .*`, what: `\.body\.message$`, want: `.*Not a number of type INT\nInvalid value null for configuration tasks.max: Value must be non-null\n`, got: `.*1 error\(s\):\nInvalid value abc for configuration tasks.max: Not a number of type INT\n`, why: "one mistake is one message"},
	{request: `POST .*`, what: `\.body\.message$`, want: `.*Invalid value null for configuration tasks.max: Value must be non-null\nNull value can not be supplied`, got: `.*1 error\(s\):\nInvalid value null for configuration tasks.max: Null value can not be supplied as the configuration value\.\n`, why: "one mistake is one message"},
	{request: `POST .*`, what: `\.body\.message$`, want: `.*Invalid regex: Unclosed character class`, got: `.*1 error\(s\):\nInvalid value \[ for configuration topics.regex: Invalid regex: `, why: "regular expressions are Go's"},
	{request: `POST .*`, what: `\.body\.message$`, want: `.*: Class no.Such could not be found`, got: `.*Invalid value no.Such for configuration key.converter: unknown converter; known are`, why: "lists what there is"},

	{request: `GET /connector-plugins/MySqlConnector/config\?version=999\.9`, what: `\.body\.message$`, want: `.*available versions: \[3\.4\.0\.Final\]$`, got: `Plugin io.debezium.connector.mysql.MySqlConnector not found that matches the version range \[999\.9,999\.9\], available versions: \[`, why: "the version is our connector's"},

	{request: `PUT /connector-plugins/FileStreamSink/config/validate`, what: `\.body\.not\.a\.key/0$`, want: `Null value can not be`, got: `Invalid value null for configuration not.a.key: Null value can not be`, why: "names the key"},
	{request: `PUT /connector-plugins/MySqlConnector/config/validate`, what: `\.body\.(database\.|topic\.)`, want: `The '.*' value is invalid: A value is required$`, got: `Missing required configuration ".*" which has no default value\.$`, why: "Connect's own words for it, not Debezium's"},
	{request: `PUT /connector-plugins/MySqlConnector/config/validate`, what: `\.body\.(database\.server\.id|error_count)$`, why: "database.server.id has a default"},
	{request: `GET /connectors/[^/]*/tasks-config`, what: ``, why: "Connect dropped this with 4.0; older clients still ask for it"},
	{request: `GET /connectors/\{c\}/tasks$`, what: `\.body/0\.config\.task\.class$`, why: "tasks have no Java class"},
	{request: `PATCH /connectors/\{c\}/config \{"name":"renamed"\}`, what: ``, got: `(400|have none|Connector name configuration \(renamed\) doesn't match)`, why: "Connect stores the other name in the config and keeps the old one for the connector"},
	{request: `PATCH /connectors/\{c\}/offsets`, what: `\.body\.message$`, want: `Failed to alter consumer group offsets for connector \{c\}$`, got: `Failed to alter consumer group offsets for connector \{c\}: \{t\}-none-0: there is no such partition$`, why: "says what is wrong"},
	{request: `(PATCH|DELETE) /connectors/\{s\}/offsets`, what: `\.body\.message$`, want: `The Connect framework-managed offsets .*`, got: `The offsets for this connector have been (altered|reset) successfully$`, why: "the mysql source keeps no offsets elsewhere"},

	// Apache's own scenarios.
	{request: `PUT .*"no\.Such"`, what: `\.body\.(transforms|predicates)\.`, want: `.*: Class no\.Such could not be found\.$`, got: `.*: there is no such class; known are `, why: "lists what there is"},
	{request: `PUT .*"no\.Such"`, what: `\.body\.(key|value)\.converter/0$`, want: `.*: Class no\.Such could not be found\.$`, got: `.*: unknown converter; known are `, why: "lists what there is"},
	{request: `PUT .*"header\.converter":"no\.Such"`, what: `\.body\.(header\.converter|error_count)$`, why: "headers pass as the bytes they are, whatever the converter"},
	{request: `PUT .*"(transforms|predicates)":"(t,t|p,p)"`, what: `\.body\.(transforms|predicates)/0$`, want: `.*Duplicate alias provided\.$`, got: `.*Duplicate alias provided: [tp]$`, why: "names the alias"},
	{request: `PUT .*"transforms\.t\.negate":"true"`, what: `\.body\.transforms\.t\.(negate|type)$`, why: "a mistake is bound to its own key"},
	{request: `PUT .*(TopicNameMatches|InsertHeader)"`, what: `\.body\.(error_count|predicates\.p\.pattern|transforms\.t\.(header|value\.literal))$`, why: "one mistake is one message"},
	{request: `PUT .*"value\.converter\.schemas\.enable":"maybe"`, what: `\.body\.value\.converter\.schemas\.enable/0$`, want: `Invalid value maybe for configuration schemas\.enable: `, got: `Invalid value maybe for configuration value\.converter\.schemas\.enable: `, why: "names the key"},
	{request: `PUT .*"errors\.deadletterqueue\.topic\.replication\.factor":"x"`, what: `\.body\.errors\.deadletterqueue`, want: `.*Not a number of type SHORT$`, got: `.*Not a number of type INT$`, why: "small whole numbers are INT"},
}
