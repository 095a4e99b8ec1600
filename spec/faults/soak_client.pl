# The HTTP load of the soak: CLIENTS processes, each with one kept-alive connection, ask `pool serve` for what has one right answer, until
# the file STOP is there (or the process JUDGE is no more). perl soak_client.pl PORT CLIENTS SEED STOP JUDGE
#
# Meanwhile lines `so_far ID clock right typed`, the clock as pool.now() has it. At the end a line a client, `client ID right typed wrong kept unknown`: kept are the POSTs to its row that were answered 200, unknown
# those that may or may not have been done. Stories of wrong answers go to standard error.
use strict;
use warnings;
use Errno;
use Socket;
use Time::HiRes qw(clock_gettime CLOCK_MONOTONIC);

my ($port, $clients, $seed, $stop, $judge) = @ARGV;
$SIG{PIPE} = 'IGNORE';
$| = 1;
my ($id, $socket, $buffer);
my %n = map { $_ => 0 } qw(right typed wrong kept unknown);

sub wrong {
  $n{wrong}++;
  print STDERR substr("client $id: @_", 0, 300), "\n" if $n{wrong} <= 5;
  return;
}

sub dial {
  socket($socket, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
  connect($socket, sockaddr_in($port, INADDR_LOOPBACK)) or die "connect: $!";
  setsockopt($socket, SOL_SOCKET, SO_RCVTIMEO, pack('l!l!', 60, 0)) or die "setsockopt: $!"; # nothing here waits without an end
  $buffer = '';
}

# More bytes; false at the end of the connection.
sub more {
  while (1) {
    my $got = sysread($socket, $buffer, 65536, length $buffer);
    return $got if defined $got || !$!{EINTR}; # a process that was frozen is told so
  }
}

sub take { # the next $count bytes, undef when they do not come
  my ($count) = @_;
  while (length $buffer < $count) { more() or return undef }
  return substr($buffer, 0, $count, '');
}

sub line {
  while ($buffer !~ /\r\n/) { more() or return undef }
  $buffer =~ s/^(.*?)\r\n//s;
  return $1;
}

# The body of an answer whose head has been read; undef when it was cut off.
sub body {
  my ($length, $chunked) = @_;
  return take($length) unless $chunked;
  my $text = '';
  while (1) {
    my $size = line();
    return undef unless defined $size;
    my $piece = take(hex $size);
    return undef unless defined $piece && defined line();
    return $text if hex $size == 0;
    $text .= $piece;
  }
}

# (status, type, body): no status when the connection was closed before the head, no body when in the middle of it.
sub ask {
  my ($method, $path) = @_;
  dial() unless $socket;
  my $request = "$method $path HTTP/1.1\r\nHost: soak\r\n" . ($method eq 'POST' ? "Content-Length: 0\r\n" : '') . "\r\n";
  my $sent = syswrite($socket, $request);
  my ($status, $type, $length, $chunked, $close) = (undef, '', 0, 0, 0);
  while (defined(my $line = line())) {
    if ($line eq '') {
      my $text = body($length, $chunked);
      $socket = undef if $close || !defined $text;
      return ($status, $type, $text);
    }
    $status = $1 if $line =~ m{^HTTP/1\.1 (\d+)};
    $type = $1 if $line =~ /^content-type: (.*)/i;
    $length = $1 if $line =~ /^content-length: (\d+)/i;
    $chunked = 1 if $line =~ /^transfer-encoding: chunked/i;
    $close = 1 if $line =~ /^connection: close/i;
  }
  $socket = undef;
  return ();
}

# Whether an answer is the right one, a typed refusal or wrong. -> 'right', 'typed', 'wrong'
sub judge {
  my ($what, $want, $status, $type, $text) = @_;
  return wrong("$what: no answer") || 'wrong' unless $status;
  if (!defined $text) { # a stream whose statement failed can only be cut off
    return 'typed' if $what eq 'rows';
    return wrong("$what: $status cut off") || 'wrong';
  }
  return 'typed' if ($status == 503 || $status == 504) && $type =~ m{^application/problem\+json};
  return 'right' if "$status $text" =~ $want;
  return wrong("$what: $status $text") || 'wrong';
}

sub count { my ($how) = @_; $n{$how}++ unless $how eq 'wrong'; return $how } # wrong() has counted

sub hang_up { # in the middle of a statement
  dial() unless $socket;
  syswrite($socket, "GET /slow HTTP/1.1\r\nHost: soak\r\n\r\n");
  select undef, undef, undef, rand 0.02;
  close $socket;
  $socket = undef;
}

sub ledger {
  my ($status, $type, $text) = ask('POST', "/ledger/$id");
  my $how = count(judge('ledger', qr/^200 \d+$/, $status, $type, $text));
  if ($how ne 'right') { $n{unknown}++; return }
  wrong("row $id says $text: $n{kept} were kept, of $n{unknown} nobody knows") if $text <= $n{kept} || $text > $n{kept} + $n{unknown} + 1;
  $n{kept}++;
}

sub rows {
  my $count = 1 + int rand 300;
  my $want = join '', map { "$_\n" } 1 .. $count;
  count(judge('rows', qr/^200 \Q$want\E$/, ask('GET', "/rows/$count")));
}

sub one {
  my $dice = rand 100;
  if ($dice < 50) { my $k = int rand 1e6; return count(judge('n', qr/^200 @{[$k * 7]}$/, ask('GET', "/n/$k"))) }
  return ledger() if $dice < 65;
  return rows() if $dice < 75;
  return count(judge('slow', qr/^200 slow$/, ask('GET', '/slow'))) if $dice < 80;
  return hang_up() if $dice < 84;
  return count(judge('forgotten', qr/^200 false$/, ask('GET', '/forgotten'))) if $dice < 88;
  return count(judge('dropped', qr/^200 dropped$/, ask('GET', '/dropped'))) if $dice < 90;
  return count(judge('deadline', qr/^504 never$/, ask('GET', '/deadline'))) if $dice < 92;
  return count(judge('raise', qr/^500 .*Internal Server Error/, ask('GET', '/raise'))) if $dice < 94;
  return count(judge('nothing', qr/^404 /, ask('GET', '/nothing'))) if $dice < 96;
  return count(judge('health', qr/^(200|503) \{"status"|^(200|503) .*"pool_status"/, ask('GET', '/health')));
}

for my $number (1 .. $clients) {
  my $pid = fork // die "fork: $!";
  next if $pid;
  $id = 1000 + $number;
  srand($seed + $number);
  my $told = 0;
  until (-e $stop || !-e "/proc/$judge") {
    one();
    my $now = clock_gettime(CLOCK_MONOTONIC);
    if ($now - $told > 0.2) { printf "so_far %d %.3f %d %d\n", $id, $now, @n{qw(right typed)}; $told = $now }
    select undef, undef, undef, rand 0.02;
  }
  print join(' ', 'client', $id, @n{qw(right typed wrong kept unknown)}), "\n";
  exit 0;
}
1 while wait != -1;
