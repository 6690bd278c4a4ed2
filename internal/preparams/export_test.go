package preparams

// Label lets tests seal a row as the pool does.
var Label = label
